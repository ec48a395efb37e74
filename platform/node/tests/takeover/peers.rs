//! Five nginx behind the address, and curl in front of it, while the dispatcher's machine dies.

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::time::Instant;

use crate::cluster::{Cluster, NODES, end};
use crate::net::{VIP, sh};
use crate::wait::until;

pub(crate) const PORT: u16 = 8_081;

struct Programs(Vec<Child>);

impl Drop for Programs {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(end);
    }
}

/// The configuration of a node's nginx, in a file.
pub(crate) fn conf(folder: &str, node: usize) -> Result<String, String> {
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let text = format!(
        "daemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/errors;\nevents {{ worker_connections 1024; }}\n\
         http {{\naccess_log off;\nclient_body_temp_path {folder}/body;\nproxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/fastcgi;\nuwsgi_temp_path {folder}/uwsgi;\nscgi_temp_path {folder}/scgi;\n\
         server {{ listen {VIP}:{PORT}; location / {{ return 200 \"server {node}\\n\"; }} }}\n}}\n"
    );
    let file = format!("{folder}/nginx.conf");
    std::fs::write(&file, text).map_err(|error| error.to_string())?;
    Ok(file)
}

/// One nginx in each namespace, in the foreground and with one process, answering its node's name.
fn servers(cluster: &Cluster) -> Result<Programs, String> {
    let mut programs = Programs(Vec::new());
    for node in 0..NODES {
        let folder = cluster.file(&format!("nginx{node}"));
        let file = conf(&folder, node)?;
        let log = format!("nginx{node}.log");
        let child = cluster.net.start(&cluster.net.node(node), &["nginx", "-c", &file, "-p", &folder], &log);
        programs.0.push(child.map_err(|error| error.to_string())?);
    }
    Ok(programs)
}

/// One request on a connection of its own, which may take some seconds.
fn curl(cluster: &Cluster) -> Result<String, String> {
    let client = cluster.net.client();
    let url = format!("http://{VIP}:{PORT}/");
    let output = Command::new("ip")
        .args(["netns", "exec", &client, "curl", "-sS", "--max-time", "5", &url])
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().into())
}

pub(crate) fn nginx(cluster: &mut Cluster) -> Result<(), String> {
    for (tool, version) in [("nginx", "-v"), ("curl", "--version")] {
        if sh(&format!("{tool} {version}")).is_err() {
            println!("nginx and curl: SKIPPED: `{tool}` is missing");
            return Ok(());
        }
    }
    cluster.whole()?;
    let mut programs = servers(cluster)?;
    let mut answers = BTreeMap::<String, u32>::new();
    until(10, "nginx does not answer everywhere", || {
        *answers.entry(curl(cluster)?).or_default() += 1;
        if answers.len() == NODES { Ok(()) } else { Err(format!("{answers:?}")) }
    })?;
    // The dispatcher's machine dies: daemon, server and link at once.
    let (dispatcher, _) = cluster.place(false)?;
    let dead = format!("server {dispatcher}");
    cluster.net.link(dispatcher, false)?;
    cluster.stop(dispatcher, "KILL")?;
    end(&mut programs.0[dispatcher]);
    cluster.away = Some(dispatcher);
    let began = Instant::now();
    let (mut during, mut first) = (BTreeMap::<String, u32>::new(), None);
    let mut slowest = std::time::Duration::ZERO;
    while during.values().sum::<u32>() < 60 {
        let asked = Instant::now();
        // A request waits for the new dispatcher; none fails.
        *during
            .entry(curl(cluster).map_err(|error| format!("curl, after {:?}: {error}", began.elapsed()))?)
            .or_default() += 1;
        slowest = slowest.max(asked.elapsed());
        first.get_or_insert_with(|| began.elapsed());
    }
    println!(
        "nginx and curl: before {answers:?}; machine {dispatcher} died; first answer after {first:?}, slowest {slowest:?}, then {during:?}"
    );
    if during.contains_key(&dead) || during.len() < NODES - 1 {
        return Err(format!("of five nginx one died, {dead}, and these answer: {during:?}"));
    }
    cluster.net.link(dispatcher, true)?;
    cluster.away = None;
    cluster.start(dispatcher)?;
    drop(programs);
    cluster.whole()
}
