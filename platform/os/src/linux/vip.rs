//! A server holds the cluster's address on its loopback and does not speak for it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::system::{at, command, read_setting, write_setting};

/// The address, held. Dropping it restores what was; after a crash, the next holder or [`Vip::restore`] does, by the state file.
#[derive(Debug)]
pub struct Vip {
    state: PathBuf,
}

impl Vip {
    /// Puts the addresses on the loopback, and stops the kernel from speaking for them on `port`. What was before is in the
    /// file `state` first.
    ///
    /// # Errors
    /// If a setting or an address is refused: nothing is changed then, or is restored by the next start.
    pub fn hold(port: &str, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>, state: &Path) -> io::Result<Self> {
        let place = state.display().to_string();
        // After a crash: what was before is in the file, and what is there now may be in use.
        let crashed = match fs::read_to_string(state) {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(at(&place)(error)),
        };
        let vip = Self { state: state.into() };
        // Answer for addresses of the port only, and ask with them: the kernel takes the higher of `all` and the port's own.
        let mut wanted = Vec::new();
        for of in ["all", port] {
            wanted.push((format!("net/ipv4/conf/{of}/arp_ignore"), "1"));
            wanted.push((format!("net/ipv4/conf/{of}/arp_announce"), "2"));
        }
        let mut lines = String::new();
        for (name, _) in &wanted {
            let start = format!("setting {name} ");
            if let Some(line) = crashed.lines().find(|line| line.starts_with(&start)) {
                lines += &format!("{line}\n");
                continue;
            }
            match read_setting(name) {
                Ok(value) => lines += &format!("setting {name} {value}\n"),
                Err(error) => return Err(error),
            }
        }
        let addresses: Vec<IpAddr> = v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6)).collect();
        for address in &addresses {
            let line = format!("address {}\n", prefix(*address));
            if crashed.contains(&line) || !has(*address)? {
                lines += &line;
            }
        }
        // Of another address, or another port.
        let gone: Vec<&str> = crashed.lines().filter(|line| !lines.lines().any(|kept| kept == *line)).collect();
        undo(&place, &gone)?;
        if let Some(folder) = state.parent() {
            fs::create_dir_all(folder).map_err(at(&place))?;
        }
        fs::write(state, &lines).map_err(at(&place))?;
        for (name, value) in wanted.iter().filter(|(name, _)| lines.contains(name.as_str())) {
            write_setting(name, value)?;
        }
        for address in addresses {
            if lines.contains(&format!("address {}\n", prefix(address))) && !has(address)? {
                let with = prefix(address);
                let mut words = vec!["address", "add", &with, "dev", "lo"];
                // Duplicate address detection would ask the net, and find the dispatcher.
                if address.is_ipv6() {
                    words.push("nodad");
                }
                command("ip", &words, "")?;
            }
        }
        command("ip", &["link", "set", "dev", "lo", "up"], "")?;
        Ok(vip)
    }

    /// Restores what a holder that is gone has changed, and forgets it. No file: nothing was.
    ///
    /// # Errors
    /// If the file cannot be read, or a setting is refused; the file then stays.
    pub fn restore(state: &Path) -> io::Result<()> {
        let place = state.display().to_string();
        let lines = match fs::read_to_string(state) {
            Ok(lines) => lines,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(at(&place)(error)),
        };
        undo(&place, &lines.lines().collect::<Vec<_>>())?;
        fs::remove_file(state).map_err(at(&place))
    }
}

impl Drop for Vip {
    fn drop(&mut self) {
        let _ = Self::restore(&self.state);
    }
}

/// Undoes what lines of a state file tell.
fn undo(place: &str, lines: &[&str]) -> io::Result<()> {
    // Addresses first: they came last.
    for line in lines.iter().rev() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["setting", name, value] => match write_setting(name, value) {
                // The port itself may be gone.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
            ["address", address] => {
                let bare = address.split('/').next().and_then(|bare| bare.parse().ok());
                if bare.map_or(Ok(false), has)? {
                    command("ip", &["address", "del", address, "dev", "lo"], "")?;
                }
            }
            _ => {
                let what =
                    format!("{place}: `{line}` is not understood; undo by hand what it says, and remove the file");
                return Err(io::Error::other(what));
            }
        }
    }
    Ok(())
}

fn prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// Whether the loopback has the address already.
fn has(address: IpAddr) -> io::Result<bool> {
    let output = std::process::Command::new("ip").args(["-o", "address", "show", "dev", "lo"]).output();
    let output = output.map_err(at("`ip address`; install iproute2"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().any(|word| word.split('/').next().and_then(|word| word.parse().ok()) == Some(address)))
}
