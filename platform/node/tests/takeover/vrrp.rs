//! keepalived for the same clients: VRRP between two nodes; the address moves with everything behind it.

use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::{Clients, Lost, end};
use crate::net::{Net, VIP, sh};
use crate::strike::{CALM, Row};
use crate::wait::until;

/// Programs that end with the value.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(end);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Strike {
    /// The machine: the daemon is killed, its link down. A daemon killed alone leaves the address where it was.
    Dead,
    /// The daemon alone.
    Killed,
    Frozen,
    Partition,
}

const STRIKES: [(Strike, &str); 4] = [
    (Strike::Dead, "machine gone"),
    (Strike::Killed, "killed (SIGKILL)"),
    (Strike::Frozen, "frozen (SIGSTOP)"),
    (Strike::Partition, "partition, carrier up"),
];

struct Pair {
    net: Net,
    exe: String,
    advert: &'static str,
    daemons: [Children; 2],
    _servers: Children,
}

impl Pair {
    fn new(advert: &'static str) -> Result<Self, String> {
        let net = Net::new(2)?;
        let exe = std::env::current_exe().map_err(|error| error.to_string())?.display().to_string();
        let mut servers = Children(Vec::new());
        for node in 0..2 {
            // A server may begin before the address comes.
            let bind = "sysctl -qw net.ipv4.ip_nonlocal_bind=1";
            let _ = sh(&format!("ip netns exec {} {bind}", net.node(node)));
            let command = [&exe[..], "serve", VIP, &node.to_string()];
            servers.0.push(net.start(&net.node(node), &command, "servers.log").map_err(|error| error.to_string())?);
        }
        let daemons = [Children(Vec::new()), Children(Vec::new())];
        let mut pair = Self { net, exe, advert, daemons, _servers: servers };
        for node in 0..2 {
            pair.start(node)?;
        }
        until(15, "no master", || if pair.owners() == [0] { Ok(()) } else { Err("not yet".into()) })?;
        Ok(pair)
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let folder = self.net.folder.display();
        let file = format!("{folder}/keepalived{node}.conf");
        let (state, priority) = if node == 0 { ("MASTER", 150) } else { ("BACKUP", 100) };
        let text = format!(
            "global_defs {{ vrrp_version 3\nvrrp_garp_master_delay 1 }}\nvrrp_instance a {{\nstate {state}\n\
             interface eth0\nvirtual_router_id 97\npriority {priority}\nadvert_int {}\n\
             virtual_ipaddress {{ {VIP}/24 }}\n}}\n",
            self.advert
        );
        std::fs::write(&file, text).map_err(|error| error.to_string())?;
        let pid = |of: &str| format!("--{of}={folder}/{of}{node}.pid");
        let command = ["keepalived", "-n", "-l", "-P", "-f", &file, &pid("pid"), &pid("vrrp_pid")];
        let child = self.net.start(&self.net.node(node), &command, "keepalived.log");
        self.daemons[node] = Children(vec![child.map_err(|error| error.to_string())?]);
        Ok(())
    }

    /// Who has the address on its port.
    fn owners(&self) -> Vec<usize> {
        let has = |node: &usize| {
            let command = ["-o", "-n", &self.net.node(*node), "address", "show", "dev", "eth0"];
            let output = std::process::Command::new("ip").args(command).output();
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(&format!("{VIP}/")))
        };
        (0..2).filter(has).collect()
    }

    fn signal(&self, name: &str) {
        for of in ["vrrp_pid", "pid"] {
            let file = self.net.folder.join(format!("{of}0.pid"));
            let pid = std::fs::read_to_string(file).unwrap_or_default();
            let _ = sh(&format!("kill -{name} {}", pid.trim()));
        }
    }

    fn trial(&mut self, clients: &mut Clients, what: Strike, row: &mut Row) -> Result<(), String> {
        clients.settle(&row.name)?;
        sleep(Duration::from_millis(300));
        let had = clients.report()?["servers"]["0"].as_u64().unwrap_or_default();
        clients.say("mark")?;
        let began = Instant::now();
        match what {
            Strike::Dead => {
                self.signal("KILL");
                self.net.link(0, false)?;
            }
            Strike::Killed => self.signal("KILL"),
            Strike::Frozen => self.signal("STOP"),
            Strike::Partition => self.net.cut(0, true)?,
        }
        clients.struck = Some(0);
        row.lose(Lost { had, ..Lost::default() });
        let report = until(20, "nobody took over", || {
            let report = clients.report()?;
            let silent = report["silent_us"].as_u64().unwrap_or(u64::MAX);
            let over = self.owners().contains(&1) && silent < CALM && began.elapsed() > Duration::from_millis(900);
            if over { Ok(report) } else { Err(format!("silent {silent} us")) }
        });
        row.owners = row.owners.max(self.owners().len());
        match what {
            Strike::Dead | Strike::Killed => {
                self.daemons[0] = Children(Vec::new());
                // Who notices that its other half was killed takes the address away itself.
                let _ = sh(&format!("ip -n {} address del {VIP}/24 dev eth0", self.net.node(0)));
                if what == Strike::Dead {
                    self.net.link(0, true)?;
                }
                self.start(0)?;
            }
            Strike::Frozen => self.signal("CONT"),
            Strike::Partition => self.net.mend()?,
        }
        row.add(&report?);
        let lost = clients.count(&row.name)?;
        row.lose(Lost { struck: lost.struck + lost.others, ..Lost::default() });
        // The first has the higher priority: it takes the address back, and the connections go once more.
        until(
            15,
            "the first is not master again",
            || if self.owners() == [0] { Ok(()) } else { Err("not yet".into()) },
        )?;
        // It was master all the time, and does not claim the address anew: clients would ask the other for as long as they remember.
        let _ = sh(&format!("ip -n {} neigh del {VIP} dev eth0", self.net.client()));
        clients.struck = Some(1);
        let had = clients.report()?["servers"]["1"].as_u64().unwrap_or_default();
        let lost = clients.settle(&row.name)?;
        row.lose(Lost { struck: lost.struck + lost.others, others: 0, had });
        Ok(())
    }
}

/// VRRP with its default timer, and as fast as it was set in the comparison of clusters.
pub(crate) fn keepalived(
    trials: u64,
    only: &str,
    connections: usize,
    mut print: impl FnMut(&Row),
) -> Result<Vec<Row>, String> {
    sh("keepalived --version")?;
    let mut rows = Vec::new();
    let called = |advert: &str, name: &str| format!("keepalived, advert_int {advert}: {name}");
    for advert in ["1", "0.1"] {
        if !STRIKES.iter().any(|(_, name)| called(advert, name).contains(only)) {
            continue;
        }
        let mut pair = Pair::new(advert)?;
        let mut clients = Clients::start(&pair.net, &pair.exe, connections)?;
        // All connections go with the address.
        clients.quiet = true;
        for (what, name) in STRIKES {
            let mut row = Row::new(&called(advert, name));
            if !row.name.contains(only) {
                continue;
            }
            for _ in 0..trials {
                pair.trial(&mut clients, what, &mut row)?;
            }
            row.done();
            print(&row);
            rows.push(row);
        }
    }
    Ok(rows)
}
