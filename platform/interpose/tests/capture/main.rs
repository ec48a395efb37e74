//! Programs with the library before them, and the drainer: what it hands over is what was done, byte for byte.
#![cfg_attr(
    all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"),
    allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_possible_wrap,
        reason = "small numbers, and the kernel's"
    )
)]

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod calls;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod gone;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod guarded;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod kills;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod programs;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod proof;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod waits;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod world;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")))]
fn main() {
    println!("capture: SKIPPED: it needs Linux on x86-64 with glibc");
}

#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
fn main() {
    if let Some(role) = std::env::var_os("APUS_ROLE") {
        match role.to_str() {
            Some("overwrite") => proof::overwrite(),
            Some("threads") => proof::threads(),
            Some("vanish") => gone::vanish(),
            Some("calls") => calls::calls(),
            Some("spawns") => calls::spawns(),
            Some("mapping") => calls::mapping(),
            Some("waits") => waits::waits(),
            Some("crowd") => waits::crowd(),
            Some("all") => waits::all(),
            Some("drain") => kills::drain(),
            Some("churn") => kills::churn(),
            other => panic!("no role {other:?}"),
        }
        return;
    }
    if std::env::args().any(|arg| arg == "--list") {
        println!("capture: test");
        return;
    }
    if let Err(why) = world::place() {
        println!("capture: SKIPPED: {why}");
        return;
    }
    let tests: [(&str, fn()); 23] = [
        ("overwrites_are_shipped_as_they_were", proof::overwrites_are_shipped_as_they_were),
        ("threads_keep_their_order", proof::threads_keep_their_order),
        ("a_capture_without_copies_is_caught", proof::a_capture_without_copies_is_caught),
        ("a_late_sequence_is_caught", proof::a_late_sequence_is_caught),
        ("a_file_that_is_gone_was_copied", gone::a_file_that_is_gone_was_copied),
        ("a_file_that_is_gone_uncopied_is_told", gone::a_file_that_is_gone_uncopied_is_told),
        ("every_call_is_seen", calls::every_call_is_seen),
        ("what_a_spawn_opens_is_told", calls::what_a_spawn_opens_is_told),
        ("a_shared_mapping_is_told", calls::a_shared_mapping_is_told),
        ("a_killed_drainer_goes_on", kills::a_killed_drainer_goes_on),
        ("a_killed_program_leaves_no_hole", kills::a_killed_program_leaves_no_hole),
        ("without_a_drainer_programs_go_on", kills::without_a_drainer_programs_go_on),
        ("a_full_ring_ships_ranges_alone", kills::a_full_ring_ships_ranges_alone),
        ("the_table_of_files_is_cleared", kills::the_table_of_files_is_cleared),
        ("who_waits_is_let_go_or_told", waits::who_waits_is_let_go_or_told),
        ("a_file_that_was_swept_is_waited_for", waits::a_file_that_was_swept_is_waited_for),
        ("who_puts_all_on_the_disk_waits", waits::who_puts_all_on_the_disk_waits),
        ("a_stranger_is_refused", guarded::a_stranger_is_refused),
        ("a_stranger_is_told", guarded::a_stranger_is_told),
        ("databases_are_whole_at_any_moment", programs::databases_are_whole_at_any_moment),
        ("an_append_only_file_is_whole_at_any_moment", programs::an_append_only_file_is_whole_at_any_moment),
        ("a_repository_is_whole_at_any_moment", programs::a_repository_is_whole_at_any_moment),
        ("an_editors_save_is_whole_at_any_moment", programs::an_editors_save_is_whole_at_any_moment),
    ];
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, test) in tests {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            let started = std::time::Instant::now();
            test();
            println!("{name}: ok ({} ms)", started.elapsed().as_millis());
        }
    }
}
