# Read by Redis's test suite when all of its procedures are defined, before its first test.
#
# The suite changes the configuration of the server it tests. Behind the proxy there are several, which clients
# can't configure: CONFIG and DEBUG go straight to each server that the environment lists in SERVERS
# ("host:port host:port ..."), and so do the commands that have one write its data to disk. All else that the suite
# asks goes to the proxy.

# The reply of the servers: the first that is no error, or the first error.
proc ask_servers {command} {
    set replies {}
    foreach address $::env(SERVERS) {
        set client [redis {*}[split $address :]]
        lappend replies [list [catch {::redis::dispatch $::redis::id {*}$command} reply] $reply]
        $client close
    }
    lassign [lindex [lsort -integer -index 0 $replies] 0] failed reply
    return -code $failed $reply
}

# A client that reads its replies later, in order, goes on asking the proxy.
rename ::redis::__dispatch__ ::redis::dispatch
proc ::redis::__dispatch__ {id method args} {
    if {[string tolower $method] in {config debug bgsave bgrewriteaof} && [lindex $::redis::addr($id) 1] == $::port
            && $::redis::blocking($id) && !$::redis::deferred($id)} {
        return [ask_servers [list $method {*}$args]]
    }
    tailcall ::redis::dispatch $id $method {*}$args
}

# An error outside of a test ends its file; the suite counts that with --durable, but does not tell. A test that
# failed leaves its connection as it is, perhaps in a transaction, to the next, which would fail too.
set ::failures_told 0
rename send_data_packet send_to_test_server
proc send_data_packet {fd status data {elapsed 0}} {
    if {$status eq "err"} {
        incr ::failures_told
        catch reconnect
    } elseif {$status eq "done" && $::num_failed > $::failures_told} {
        set ::failures_told $::num_failed
        send_to_test_server $fd err "outside of a test in $::curfile: [join [lindex $::tests_failed end] \n]"
    }
    send_to_test_server $fd $status $data $elapsed
}
