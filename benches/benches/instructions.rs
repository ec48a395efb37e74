//! Instructions of the engine's hot paths under valgrind: `.ci/instructions` holds them against a baseline.
#![allow(missing_docs, unused_qualifications, reason = "a bench; the macros write paths in full")]

use std::hint::black_box;

use apus_benches::dispatch::{Dispatcher, dispatcher, frame};
use apus_benches::fixture;
use apus_dispatch::{Key, NoHooks, Verdict};
use apus_engine::wire::{self, Body};
use apus_engine::{Config, Engine, Input, Time};
use gungraun::{library_benchmark, library_benchmark_group, main};

fn packet(body: &Body) -> (Config, Vec<u8>) {
    (fixture::config(5), wire::encode(&fixture::header(1), body))
}

fn follower_and(nodes: u16, input: &str) -> (Engine, Time, Input) {
    let (engine, now) = fixture::follower(nodes);
    match input {
        "ping" => (engine, now, fixture::packet(1, &fixture::ping(0))),
        "append" => (engine, now, fixture::packet(1, &fixture::append(1, 1))),
        _ => {
            let due = engine.deadline().map_or(now, |deadline| deadline.at);
            (engine, due, Input::Tick)
        }
    }
}

#[library_benchmark]
#[bench::ping(fixture::ping(0))]
#[bench::ping_with_news(fixture::ping(6))]
#[bench::append_16(fixture::append(1, 16))]
fn encode(body: Body) -> Vec<u8> {
    wire::encode(&fixture::header(1), black_box(&body))
}

#[library_benchmark]
#[bench::ping(packet(&fixture::ping(0)))]
#[bench::ping_with_news(packet(&fixture::ping(6)))]
#[bench::append_16(packet(&fixture::append(1, 16)))]
fn decode((config, packet): (Config, Vec<u8>)) -> bool {
    black_box(wire::decode(&config, &packet)).is_ok()
}

#[library_benchmark]
#[bench::ping_5(follower_and(5, "ping"))]
#[bench::ping_500(follower_and(500, "ping"))]
#[bench::append_5(follower_and(5, "append"))]
#[bench::append_500(follower_and(500, "append"))]
#[bench::tick_5(follower_and(5, "tick"))]
#[bench::tick_500(follower_and(500, "tick"))]
fn handle((mut engine, now, input): (Engine, Time, Input)) -> (Engine, usize) {
    engine.handle(now, input);
    let packets = fixture::drain(&mut engine, now);
    (engine, packets)
}

#[library_benchmark]
#[bench::of_5(fixture::follower(5))]
#[bench::of_500(fixture::follower(500))]
fn state_hash((engine, _): (Engine, Time)) -> (Engine, u128) {
    let hash = engine.state_hash();
    (engine, hash)
}

type Arrived = (&'static Dispatcher, &'static mut Vec<u8>);

fn arrived(key: Key, kind: &str) -> Arrived {
    (dispatcher(key), Box::leak(Box::new(frame(key, kind))))
}

// One frame, the call and its return included.
#[library_benchmark]
#[bench::v4(arrived(Key::Source, "v4"))]
#[bench::v4_options(arrived(Key::Source, "v4_options"))]
#[bench::v6(arrived(Key::Source, "v6"))]
#[bench::v6_hop_by_hop(arrived(Key::Source, "v6_hop_by_hop"))]
#[bench::v6_two_headers(arrived(Key::Source, "v6_two_headers"))]
#[bench::v6_three_headers(arrived(Key::Source, "v6_three_headers"))]
#[bench::v6_fragment(arrived(Key::Source, "v6_fragment"))]
#[bench::v4_by_ports(arrived(Key::Ports, "v4"))]
#[bench::v6_two_headers_by_ports(arrived(Key::Ports, "v6_two_headers"))]
fn dispatch((ready, frame): Arrived) -> Verdict {
    ready.dispatch(1_000, &NoHooks, &mut frame[..])
}

library_benchmark_group!(name = hot_paths; benchmarks = encode, decode, handle, state_hash, dispatch);
main!(library_benchmark_groups = hot_paths);
