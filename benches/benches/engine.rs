//! Time of the engine's hot paths: `cargo bench -p apus-benches --bench engine`.
#![allow(missing_docs, reason = "a bench")]

use std::hint::black_box;

use apus_benches::fixture::{self, SIZES};
use apus_engine::{Input, wire};
use apus_host::record::{Act, Recorder, Settings};
use apus_sim::heap::Heap;
use apus_sim::scenario::{Plan, Scenario, shipped};
use apus_sim::world::{Options, World};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    let config = fixture::config(5);
    for (name, body) in
        [("ping", fixture::ping(0)), ("ping+6", fixture::ping(6)), ("append 16", fixture::append(1, 16))]
    {
        let packet = wire::encode(&fixture::header(1), &body);
        group.throughput(Throughput::Bytes(packet.len() as u64));
        group.bench_function(BenchmarkId::new("encode", name), |b| {
            b.iter(|| wire::encode(&fixture::header(1), black_box(&body)));
        });
        group
            .bench_function(BenchmarkId::new("decode", name), |b| b.iter(|| wire::decode(&config, black_box(&packet))));
    }
}

fn handle(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    for nodes in SIZES {
        let (engine, now) = fixture::follower(nodes);
        let mut warm = engine.clone();
        group.bench_function(BenchmarkId::new("ping", nodes), |b| {
            let ping = fixture::packet(1, &fixture::ping(0));
            b.iter(|| {
                warm.handle(now, ping.clone());
                fixture::drain(&mut warm, now)
            });
        });
        let append = fixture::packet(1, &fixture::append(1, 1));
        group.bench_function(BenchmarkId::new("append", nodes), |b| {
            b.iter_batched_ref(
                || (engine.clone(), append.clone()),
                |(engine, append)| {
                    engine.handle(now, append.clone());
                    fixture::drain(engine, now)
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("tick", nodes), |b| {
            let due = engine.deadline().map_or(now, |deadline| deadline.at);
            b.iter_batched_ref(
                || engine.clone(),
                |engine| {
                    engine.handle(due, Input::Tick);
                    fixture::drain(engine, due)
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("deadline", nodes), |b| b.iter(|| black_box(&engine).deadline()));
        group.bench_function(BenchmarkId::new("state_hash", nodes), |b| b.iter(|| black_box(&engine).state_hash()));
    }
}

/// The same inputs with a recorder: what is kept for the thread that writes, and the hashes of the state after each step.
fn record(c: &mut Criterion) {
    let mut group = c.benchmark_group("recorded");
    let folder = std::env::temp_dir().join(format!("apus-bench-record-{}", std::process::id()));
    for nodes in [5, 50] {
        let (mut engine, now) = fixture::follower(nodes);
        let mut recorder = Recorder::start(&folder, Settings::default(), &engine, || 0).expect("a folder");
        let ping = fixture::packet(1, &fixture::ping(0));
        // Beside `engine/ping`, which is the same without.
        group.bench_function(BenchmarkId::new("ping", nodes), |b| {
            b.iter(|| {
                recorder.feed(&mut engine, now, Act::Input(ping.clone())).expect("an input is taken");
                fixture::drain(&mut engine, now)
            });
        });
        group.bench_function(BenchmarkId::new("marks", nodes), |b| b.iter(|| black_box(&engine).marks()));
    }
    let _ = std::fs::remove_dir_all(&folder);
}

fn world(c: &mut Criterion) {
    let mut group = c.benchmark_group("heap");
    let (name, text) = shipped().iter().find(|(name, _)| *name == "healthy").expect("the scenario is shipped");
    let scenario = Scenario::parse(name, text).expect("it can be read");
    let plan = Plan::draw(&scenario, 1);
    let events = Heap.run(&plan, &Options::default()).events;
    group.throughput(Throughput::Elements(events));
    group.sample_size(10);
    group.bench_function("healthy", |b| b.iter(|| Heap.run(black_box(&plan), &Options::default()).hash));
}

criterion_group!(benches, codec, handle, record, world);
criterion_main!(benches);
