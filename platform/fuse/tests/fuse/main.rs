//! Programs on a mount, and what the consumer gets: it is what was done, byte for byte, in order.
#![cfg_attr(
    all(target_os = "linux", target_arch = "x86_64"),
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_possible_wrap,
        reason = "small numbers, and the kernel's"
    )
)]

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod edges;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod history;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod model;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod programs;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod world;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
fn main() {
    println!("fuse: SKIPPED: it needs Linux on x86-64");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn main() {
    if let Some(role) = std::env::var_os("APUS_ROLE") {
        match role.to_str() {
            Some("random") => history::random(),
            Some("threads") => history::threads(),
            Some("user") => edges::user(),
            Some("late") => edges::late(),
            Some("append") => edges::append(),
            Some("sync") => edges::sync(),
            Some("syncs") => edges::syncs(),
            Some("many") => edges::many(),
            Some("plain") => edges::plain(),
            other => panic!("no role {other:?}"),
        }
        return;
    }
    if std::env::args().any(|arg| arg == "--list") {
        println!("fuse: test");
        return;
    }
    let _tidy = world::Tidy::begin();
    if let Err(why) = world::place() {
        println!("fuse: SKIPPED: {why}");
        return;
    }
    let tests: [(&str, fn(world::Way)); 15] = [
        ("the_history_is_what_programs_saw", history::the_history_is_what_programs_saw),
        ("threads_keep_their_order", history::threads_keep_their_order),
        ("files_outside_leave_no_trace", edges::files_outside_leave_no_trace),
        ("a_file_that_is_open_while_it_comes_in_is_told", edges::a_file_that_is_open_while_it_comes_in_is_told),
        ("a_full_queue_is_told_and_mended", edges::a_full_queue_is_told_and_mended),
        ("a_refusing_consumer_gets_it_again", edges::a_refusing_consumer_gets_it_again),
        ("files_belong_to_their_makers", edges::files_belong_to_their_makers),
        ("a_barrier_holds_an_fsync", edges::a_barrier_holds_an_fsync),
        ("fsyncs_that_wait_hold_up_nobody_else", edges::fsyncs_that_wait_hold_up_nobody_else),
        ("a_killed_daemon_loses_nothing", edges::a_killed_daemon_loses_nothing),
        ("a_database_is_whole_in_the_copy", programs::a_database_is_whole_in_the_copy),
        ("an_append_only_file_is_whole_in_the_copy", programs::an_append_only_file_is_whole_in_the_copy),
        ("a_repository_is_whole_in_the_copy", programs::a_repository_is_whole_in_the_copy),
        ("a_static_program_is_seen", programs::a_static_program_is_seen),
        ("planted_faults_are_caught", history::planted_faults_are_caught),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for way in world::ways() {
        for (name, test) in tests {
            if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
                let started = std::time::Instant::now();
                test(*way);
                println!("{name} over {}: ok ({} ms)", way.0, started.elapsed().as_millis());
            }
        }
    }
}
