//! Every planted bug is seen by a test, and without one every test passes. A bug is planted in a process of its own.

#![allow(clippy::duplicate_mod, reason = "each of these files is also a test by itself, with its own helpers")]

#[path = "dispatch.rs"]
mod dispatch;
#[path = "fuzz.rs"]
mod fuzz;
#[path = "station.rs"]
mod station;
#[path = "table.rs"]
mod table;

use std::panic::catch_unwind;
use std::process::Command;

use apus_dispatch::{Mutant, plant};

const VARIABLE: &str = "APUS_DISPATCH_MUTANT";

macro_rules! tests {
    ($($module:ident { $($name:ident)* })*) => {
        &[$($((concat!(stringify!($module), "::", stringify!($name)), $module::$name as fn()),)*)*]
    };
}

/// The quick ones first.
const TESTS: &[(&str, fn())] = tests! {
    dispatch {
        a_client_goes_to_the_server_of_its_slot_whatever_it_sends
        ipv6_goes_the_same_way_through_extension_headers_and_errors
        with_ports_a_client_is_spread_but_its_fragments_and_errors_stay_together
        a_quic_packet_goes_to_the_server_that_its_connection_id_names
        only_a_dispatcher_with_a_lease_dispatches
        a_server_takes_what_it_is_sent_and_refuses_an_earlier_epoch
        a_segment_without_a_socket_gets_a_second_chance_once
        bad_frames_are_dropped_with_their_reason
        the_dispatcher_alone_answers_who_has_the_address
        a_neighbour_is_advertised_to_with_a_right_checksum
        announcements_are_known_to_their_own_and_a_stale_or_foreign_claim_is_told
        a_wrong_table_is_refused_with_its_reason
    }
    station {
        a_new_dispatcher_announces_four_times_in_all_forms
        nothing_is_sent_without_a_lease_at_that_instant
        a_stale_or_foreign_claim_is_answered_by_a_whole_series_but_not_too_often
        a_fence_only_rises_and_ends_an_older_lease
        the_table_follows_departures_at_once_and_arrivals_when_it_is_quiet
        a_server_that_comes_asks_who_has_had_its_slots_in_the_meantime
        who_is_cut_off_keeps_the_table_of_the_others
        a_table_comes_before_the_place_in_it
        another_set_up_is_a_new_table_and_is_announced
    }
    table {
        who_drains_or_weighs_nothing_is_known_but_gets_nothing
        former_servers_follow_the_rule
        order_does_not_matter_and_two_builds_are_the_same
        odd_tables_are_full_and_nobody_has_too_much
    }
    fuzz { damaged_frames_change_nothing_but_what_may_change }
};

/// Plants the bug that the environment names, and says which test sees it. Run by the test below.
#[test]
#[ignore = "a part of the test below"]
fn with_a_bug() {
    let name = std::env::var(VARIABLE).unwrap_or_default();
    std::panic::set_hook(Box::new(|_| {}));
    plant(Mutant::named(&name));
    let seen = TESTS.iter().find(|(_, test)| catch_unwind(test).is_err());
    println!("\nseen by {}", seen.map_or("nobody", |(test, _)| test));
}

#[test]
fn every_planted_bug_is_seen_and_nothing_else() {
    let seen_by = |name: &str| {
        let own = std::env::current_exe().expect("it runs");
        let mut command = Command::new(own);
        command.args(["--ignored", "--exact", "with_a_bug", "--nocapture"]).env(VARIABLE, name);
        let out = command.output().expect("it can be run again");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix("seen by "));
        line.unwrap_or_else(|| panic!("{name}: {text}{}", String::from_utf8_lossy(&out.stderr))).to_owned()
    };
    let rows: Vec<_> = Mutant::ALL.iter().map(|mutant| (mutant, seen_by(mutant.name()))).collect();
    for (mutant, by) in &rows {
        println!("| dispatch | `{}` | {} | `{by}` |", mutant.name(), mutant.about());
        assert!(mutant.name().starts_with("core-"));
    }
    let missed: Vec<_> = rows.iter().filter(|(_, by)| by == "nobody").map(|(mutant, _)| mutant.name()).collect();
    assert_eq!(missed, [""; 0]);
    assert_eq!(seen_by("none"), "nobody", "without a bug");
}
