//! `apus vip trace`: frames of a live node with what became of them, as lines or as a capture.

use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use apus_sim::pcapng;
use serde_json::{Value, json};

use crate::Trouble;
use crate::args::{Format, TraceArgs};
use crate::print::{self, count, say};

pub(crate) fn trace(control: &Path, args: &TraceArgs, format: Format) -> Result<u8, Trouble> {
    let ms = u64::try_from(args.lasts.as_millis()).unwrap_or(u64::MAX);
    let question = json!({ "do": "trace", "frames": args.frames, "ms": ms, "bytes": args.bytes });
    let mut capture = match &args.pcapng {
        Some(path) => Some(Capture::new(path)?),
        None => None,
    };
    let (mut last, mut failed) = (Value::Null, None);
    apus_node::trace(control, &question, args.lasts, |line| {
        if line.get("end").is_some() {
            last = line.clone();
            return true;
        }
        match &mut capture {
            Some(capture) => failed = capture.add(line).err(),
            None if format == Format::Json => print::line(line),
            None => say!("{}", told(line)),
        }
        failed.is_none() && print::failed().is_none()
    })?;
    if let (Some(error), Some(path)) = (failed, &args.pcapng) {
        return Err(Trouble::Internal(format!("{}: {error}", path.display())));
    }
    if format == Format::Json {
        print::line(&last);
    } else if let Some(end) = last["end"].as_str() {
        let lost = last["lost"].as_u64().unwrap_or_default();
        let lost = if lost == 0 { String::new() } else { format!(", {lost} more were too many at once") };
        say!("{}{lost}; ended by: {end}", count(last["frames"].as_u64().unwrap_or_default(), "frame"));
    }
    Ok(0)
}

/// A capture file; each frame is in it as soon as it is told.
struct Capture {
    file: File,
}

impl Capture {
    fn new(path: &Path) -> Result<Self, Trouble> {
        let failed = |error: std::io::Error| Trouble::Internal(format!("{}: {error}", path.display()));
        let mut file = File::create(path).map_err(failed)?;
        let mut head = Vec::new();
        pcapng::section(&mut head);
        pcapng::interface(&mut head, pcapng::LINK_ETHERNET, "cluster's port");
        file.write_all(&head).map_err(failed)?;
        Ok(Self { file })
    }

    fn add(&mut self, line: &Value) -> std::io::Result<()> {
        let bytes = bytes_of(line);
        let packet = pcapng::Packet {
            interface: 0,
            at: line["ns"].as_u64().unwrap_or_default(),
            bytes: &bytes,
            length: line["length"].as_u64().map_or(bytes.len(), |length| usize::try_from(length).unwrap_or(usize::MAX)),
            comment: &became(line),
            inbound: true,
        };
        let mut out = Vec::new();
        pcapng::packet(&mut out, &packet);
        self.file.write_all(&out)
    }
}

fn bytes_of(line: &Value) -> Vec<u8> {
    let text = line["bytes"].as_str().unwrap_or_default().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.chunks_exact(2).map_while(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// What became of a frame, such as `transmit, slot 17, server 2, 02:00:00:00:01:02`.
fn became(line: &Value) -> String {
    let mut text = line["verdict"].as_str().unwrap_or_default().to_owned();
    let mut add = |what: String| {
        text += ", ";
        text += &what;
    };
    if let Some(reason) = line["reason"].as_str() {
        add(reason.into());
    }
    if let Some(slot) = line["slot"].as_u64() {
        add(format!("slot {slot}"));
    }
    if let Some(server) = line["server"].as_u64() {
        add(format!("server {server}"));
    }
    if let Some(to) = line["to"].as_str() {
        add(to.into());
    }
    text
}

/// One frame for people.
fn told(line: &Value) -> String {
    let ns = line["ns"].as_u64().unwrap_or_default();
    let (seconds, micros) = (ns / 1_000_000_000, ns % 1_000_000_000 / 1_000);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let what = describe(&bytes_of(line));
    format!("{hour:02}:{minute:02}:{second:02}.{micros:06}  {what}, {} bytes  {}", line["length"], became(line))
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// What a frame is: as much as a line has room for.
fn describe(frame: &[u8]) -> String {
    let mut at = 12;
    let mut kind = read(frame, at).map_or(0, u16::from_be_bytes);
    while [0x8100, 0x88a8, 0x9100].contains(&kind) && at < 20 {
        at += 4;
        kind = read(frame, at).map_or(0, u16::from_be_bytes);
    }
    let body = frame.get(at + 2..).unwrap_or_default();
    let known = match kind {
        0x0806 => arp(body),
        0x0800 => v4(body),
        0x86dd => v6(body),
        _ => None,
    };
    known.unwrap_or_else(|| format!("type {kind:04x}"))
}

fn arp(body: &[u8]) -> Option<String> {
    let (from, to) = (Ipv4Addr::from(read::<4>(body, 14)?), Ipv4Addr::from(read::<4>(body, 24)?));
    Some(match read(body, 6)? {
        [0, 1] if from == to => format!("arp {from} is here"),
        [0, 1] => format!("arp {from} asks for {to}"),
        _ => format!("arp {from} tells {to}"),
    })
}

fn v4(body: &[u8]) -> Option<String> {
    let (from, to) = (Ipv4Addr::from(read::<4>(body, 12)?), Ipv4Addr::from(read::<4>(body, 16)?));
    let header = usize::from(body.first()? & 15) * 4;
    let [protocol] = read(body, 9)?;
    let later = u16::from_be_bytes(read(body, 6)?) & 0x1fff != 0;
    let above = if later { &[] } else { body.get(header..).unwrap_or_default() };
    Some(packet(&from.to_string(), &to.to_string(), protocol, above))
}

fn v6(body: &[u8]) -> Option<String> {
    let (from, to) = (Ipv6Addr::from(read::<16>(body, 8)?), Ipv6Addr::from(read::<16>(body, 24)?));
    let [protocol] = read(body, 6)?;
    Some(packet(&format!("[{from}]"), &format!("[{to}]"), protocol, body.get(40..).unwrap_or_default()))
}

fn packet(from: &str, to: &str, protocol: u8, above: &[u8]) -> String {
    let ports = read::<4>(above, 0).filter(|_| matches!(protocol, 6 | 17));
    let Some([a, b, c, d]) = ports else {
        let name = match protocol {
            1 => "icmp".to_owned(),
            58 => "icmp6".to_owned(),
            6 => "tcp, a part".to_owned(),
            17 => "udp, a part".to_owned(),
            other => format!("protocol {other}"),
        };
        return format!("{from} > {to} {name}");
    };
    let (source, port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let name = if protocol == 17 {
        "udp".to_owned()
    } else {
        let flags = above.get(13).copied().unwrap_or_default();
        let letters = [(2, 'S'), (16, 'A'), (8, 'P'), (1, 'F'), (4, 'R')];
        let set: String = letters.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| *letter).collect();
        format!("tcp {set}")
    };
    format!("{from}:{source} > {to}:{port} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_in_one_line() {
        let head = "02000000000102000000090908004500002800000000400600000a0100070a000064";
        let segment = "9c40005000000001000000005002010000000000";
        let line = |bytes: String| {
            json!({ "ns": 3_661_000_002_000_u64, "verdict": "transmit", "slot": 17, "server": 2, "to": "02:00:00:00:00:03",
                    "length": bytes.len() / 2, "bytes": bytes })
        };
        assert_eq!(
            told(&line(format!("{head}{segment}"))),
            "01:01:01.000002  10.1.0.7:40000 > 10.0.0.100:80 tcp S, 54 bytes  transmit, slot 17, server 2, 02:00:00:00:00:03"
        );
        let question =
            "ffffffffffff02000000090908060001080006040001020000000909 0a010007 000000000000 0a000064".replace(' ', "");
        assert!(told(&line(question)).contains("arp 10.1.0.7 asks for 10.0.0.100, 42 bytes"));
        // Whatever the bytes are.
        for length in 0..head.len() {
            let text = told(&line(head[..length].to_owned()));
            assert!(text.contains(" bytes  transmit"), "{text}");
        }
        let dropped = json!({ "verdict": "drop", "reason": "not-dispatcher", "slot": null });
        assert_eq!(became(&dropped), "drop, not-dispatcher");
    }
}
