//! `apus cluster`.

use apus_engine::NodeId;
use apus_node::ask;
use apus_node::cluster::{self, NewNode};
use serde_json::{Value, json};

use crate::args::{ClusterCommand, Format, Rotation};
use crate::print::{self, say};
use crate::{Trouble, VERSION, node, plan};

/// A certificate ends soon, or nodes speak in the clear.
const DEGRADED: u8 = 1;

pub(crate) fn cluster(what: &ClusterCommand, format: Format) -> Result<u8, Trouble> {
    match what {
        ClusterCommand::Init { config, others, days } => {
            let said = cluster::init(&node::config(config)?, others.as_deref(), *days)?;
            if format == Format::Text {
                said.iter().for_each(|line| say!("{line}"));
            } else {
                print::json(&json!({ "apus": VERSION, "said": said }));
            }
        }
        ClusterCommand::Token { life, node, address, control } => {
            let answer = ask(control, &json!({ "do": "token", "life": life, "node": node, "address": address }))?;
            if format == Format::Text {
                say!("{}", answer["token"].as_str().unwrap_or_default());
            } else {
                print::json(&answer);
            }
        }
        ClusterCommand::Join { token, mac, config, folder, node, address, weight } => {
            let mac = mac.as_ref().map_or(Ok([0; 6]), |mac| {
                let bytes: Vec<u8> = mac.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
                bytes.try_into().map_err(|_| {
                    Trouble::Usage(format!(
                        "`{mac}` is no hardware address; write such as 02:00:00:00:00:01, see `ip link`"
                    ))
                })
            })?;
            let node = node.map(|node| NodeId(node.into()));
            let new = NewNode { node, address: *address, mac, weight: *weight };
            let config = cluster::join(token, config, folder, &new)?;
            if format == Format::Text {
                say!("this is node {} of cluster {}: `apus node run` starts it", config.me.0, config.cluster);
            } else {
                print::json(&json!({ "apus": VERSION, "node": config.me.0, "cluster": config.cluster }));
            }
        }
        ClusterCommand::Status { control } => {
            let status = ask(control, &json!({ "do": "certificates" }))?;
            if format == Format::Json {
                print::json(&status);
            } else {
                tell(&status);
            }
            return Ok(if status["cluster"]["warning"].is_null() { 0 } else { DEGRADED });
        }
        ClusterCommand::Leave { of, dry_run: true } => {
            return plan::tell(&of.control, json!({ "do": "leave", "node": of.node }), format);
        }
        ClusterCommand::Leave { of, .. } => {
            node::done(&of.control, &json!({ "do": "leave", "node": of.node }), format)?;
        }
        ClusterCommand::Rotate { what, control } => {
            let what = match what {
                Rotation::Node => "node",
                Rotation::Install => "install",
                Rotation::Use => "use",
                Rotation::Remove => "remove",
            };
            node::done(control, &json!({ "do": "rotate", "what": what }), format)?;
        }
    }
    Ok(0)
}

fn tell(status: &Value) {
    let cluster = &status["cluster"];
    say!(
        "node {} is {}, by {}",
        status["node"],
        status["state"].as_str().unwrap_or_default(),
        cluster["transport"].as_str().unwrap_or_default()
    );
    if let Some(name) = cluster["name"].as_str() {
        say!("certificate  {name}, {} days left", cluster["days_left"]);
    }
    for node in status["nodes"].as_array().into_iter().flatten() {
        let word = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
        say!("node {:<7} {} {}, weight {}", node["node"], word("address"), word("status"), node["weight"]);
    }
    for (why, times) in cluster["refused"].as_object().into_iter().flatten() {
        say!("refused      {why} {times}");
    }
    if let Some(warning) = cluster["warning"].as_str() {
        say!("warning      {warning}");
    }
}
