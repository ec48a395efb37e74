//! Writes the bytes of a table to standard output: `table SERVERS LOG2_SLOTS source|ports|quic`.
//!
//! The cluster has the addresses 10.0.0.100 and `fd00::100` and claims 02:00:00:00:00:fe; server n, from 0, has the address
//! 02:00:00:00:01:n.

use std::io::Write;

use apus_dispatch::{Head, Key, Member, Members, build};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [servers, log2_slots, key] = words.as_slice() else {
        return Err("usage: table SERVERS LOG2_SLOTS source|ports|quic".into());
    };
    let key = match key.as_str() {
        "source" => Key::Source,
        "ports" => Key::Ports,
        "quic" => Key::Quic,
        other => return Err(format!("no key is called `{other}`: source, ports, quic").into()),
    };
    let head = Head {
        epoch: 1,
        seed: 1997,
        log2_slots: log2_slots.parse()?,
        key,
        v4: [10, 0, 0, 100],
        v6: [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        claim: [2, 0, 0, 0, 0, 0xfe],
    };
    let members = (0..servers.parse::<u8>()?).map(|n| Member {
        id: u64::from(n),
        mac: [2, 0, 0, 0, 1, n],
        weight: 1,
        draining: false,
    });
    let block = build(&head, &Members::new(members)?, None)?;
    std::io::stdout().write_all(&block)?;
    Ok(())
}
