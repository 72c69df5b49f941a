"""ACL: who a client is; users are set in the configuration."""

from proxy.answers.registry import Client, Context, answers
from proxy.reply import bulk


@answers("acl|whoami", 2)
def _acl_whoami(client: Client, _context: Context, _args: list[bytes]) -> bytes:
    return bulk(client.user)
