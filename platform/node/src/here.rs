//! Whether this machine has what a file names: programs, users, folders, the port and its addresses.

use std::net::UdpSocket;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use apus_os::program::{Check, Readiness, Spec};

use crate::check::line;
use crate::hex::mac_text;
use crate::{Config, ConfigError, Group};

/// What of right files this machine does not have.
#[must_use]
pub fn check_here(files: &[(String, String)]) -> Vec<ConfigError> {
    let mut wrong = Vec::new();
    for (name, text) in files {
        let Ok(config) = Config::check(name, text) else { continue };
        let mut put = |key: &str, what: String| {
            wrong.push(ConfigError { file: name.clone(), line: line(text, key), what });
        };
        let own = config.own();
        if let Err(error) = UdpSocket::bind((own.address, 0)) {
            put(
                "nodes",
                format!(
                    "node {}: {}: {error}; give this machine's own address, or run it there",
                    own.id.0, own.address
                ),
            );
        }
        if let Some(vip) = &config.vip {
            let port = Path::new("/sys/class/net").join(&vip.interface);
            let mac = mac_text(own.mac);
            match std::fs::read_to_string(port.join("address")) {
                Ok(found) if found.trim() == mac => {}
                Ok(found) => {
                    put("nodes", format!("node {}: `{}` has `mac = \"{}\"`", own.id.0, vip.interface, found.trim()));
                }
                Err(error) => put("vip", format!("`interface` is `{}`: {error}; see `ip link`", vip.interface)),
            }
        }
        for command in [&config.reboot, &config.fence.as_ref().map(|fence| fence.command.clone())].into_iter().flatten()
        {
            if let Some(what) = missing(command) {
                put(if config.reboot.as_ref() == Some(command) { "reboot" } else { "fence" }, what);
            }
        }
        if let Some(watchdog) = config.watchdog.as_ref().filter(|watchdog| !watchdog.device.exists()) {
            put(
                "watchdog",
                format!("{}: it is not there; is a driver loaded, such as softdog?", watchdog.device.display()),
            );
        }
        let mine = |group: &&Group| group.engine.copies.contains(&config.me);
        for one in config.groups.iter().filter(mine) {
            let wrong = [crate::linux::files::library(one).err(), group(one).err()];
            wrong.into_iter().flatten().for_each(|what| put("groups", what));
        }
        for service in &config.services {
            for what in of_service(&service.spec) {
                put("services", format!("`{}`: {what}", service.engine.name));
            }
        }
    }
    wrong
}

/// Whether this machine has the folder of a group, and can keep a copy there.
pub(crate) fn group(group: &Group) -> Result<(), String> {
    #[cfg(target_arch = "x86_64")]
    if group.capture == crate::Capture::Fuse && apus_fuse::there(&group.root) != apus_fuse::There::Nothing {
        // What lies below a mount of ours is meant.
        let below = || apus_fuse::apart(&group.root).map_err(|error| error.to_string()).and_then(|_| folder(group));
        let seen = std::thread::scope(|scope| scope.spawn(below).join());
        return seen.unwrap_or_else(|_| Err(format!("`{}`: a thread has panicked", group.name)));
    }
    folder(group)
}

fn folder(group: &Group) -> Result<(), String> {
    let (name, root) = (&group.name, group.root.display());
    let wrong = |what: String| Err(format!("`{name}`: {what}"));
    let real = match group.root.canonicalize() {
        Ok(real) if real.is_dir() => real,
        Ok(_) => return wrong(format!("`root` is {root}, which is no folder; name one")),
        Err(error) => return wrong(format!("`root` is {root}: {error}; make the folder, empty or with the files")),
    };
    if real != group.root {
        return wrong(format!("`root` is {root}, which leads to {}: write that", real.display()));
    }
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let (mut at, mut read_only) = (Path::new("/").to_path_buf(), false);
    for (place, options) in mounts.lines().filter_map(mount) {
        if place.starts_with(&real) {
            let what = if place == real { "is a mount point" } else { "has something mounted in it" };
            return wrong(format!("`root` is {root}, which {what}: use a folder below it, with nothing mounted in it"));
        }
        if real.starts_with(&place) && place.starts_with(&at) {
            (at, read_only) = (place, options.split(',').any(|option| option == "ro"));
        }
    }
    if read_only {
        let mend = "mount it for writing, or put the files elsewhere";
        return wrong(format!("`root` is {root}, on the read-only file system at {}: {mend}", at.display()));
    }
    Ok(())
}

/// Where something is mounted, and how, of a line of the kernel's list.
fn mount(line: &str) -> Option<(PathBuf, &str)> {
    let mut fields = line.split(' ');
    let (place, options) = (fields.nth(4)?, fields.next()?);
    // Blanks and the like are written in octal digits.
    let mut plain = Vec::new();
    let mut rest = place.as_bytes();
    while let [first, more @ ..] = rest {
        let octal = (*first == b'\\')
            .then(|| more.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()))
            .flatten();
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &more[3..] } else { more };
    }
    Some((PathBuf::from(std::ffi::OsString::from_vec(plain)), options))
}

fn of_service(spec: &Spec) -> Vec<String> {
    let script = |check: &Check| match check {
        Check::Script(command) => Some(command.clone()),
        Check::Tcp(_) | Check::Http { .. } => None,
    };
    let ready = match &spec.readiness {
        Readiness::Check { check, .. } => script(check),
        Readiness::Started | Readiness::Notify => None,
    };
    let live = spec.liveness.as_ref().and_then(|live| script(&live.check));
    let commands = [&Some(spec.command.clone()), &spec.promote, &spec.hooks.before, &spec.hooks.after, &ready, &live];
    let mut wrong: Vec<String> = commands.into_iter().flatten().filter_map(|command| missing(command)).collect();
    if let Some(directory) = spec.directory.as_ref().filter(|directory| !Path::new(directory).is_dir()) {
        wrong.push(format!("`directory` is {directory}, which is not there"));
    }
    if let Some(user) = &spec.user {
        let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = known.lines().any(|line| line.split(':').next() == Some(user));
        // Others may come from elsewhere, by the system's name services.
        let elsewhere = || {
            std::process::Command::new("getent").args(["passwd", user]).output().is_ok_and(|said| said.status.success())
        };
        if !found && !elsewhere() {
            wrong.push(format!("there is no user `{user}`"));
        }
    }
    wrong
}

/// Why a command cannot be run here.
fn missing(command: &[String]) -> Option<String> {
    let name = command.first()?;
    let runs = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let found = if name.contains('/') {
        runs(Path::new(name))
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| runs(&folder.join(name)))
    };
    (!found).then(|| format!("`{name}` is no program here; give its whole path, or install it"))
}

#[cfg(test)]
mod tests {
    use super::check_here;

    #[test]
    fn what_this_machine_has_not_is_told() {
        let text = |rest: &str| {
            format!(
                "cluster = 7\nnode = 0\n[[nodes]]\nid = 0\naddress = \"127.0.0.1\"\n[[services]]\nname = \"web\"\n\
                 command = [\"/bin/sleep\", \"9\"]\n{rest}"
            )
        };
        let said = |text: String| -> Vec<String> {
            check_here(&[("x".into(), text)]).iter().map(ToString::to_string).collect()
        };
        assert_eq!(said(text("user = \"root\"\ndirectory = \"/\"\nready = { script = [\"true\"] }\n")), [""; 0]);
        let told = said(
            text("user = \"nobody-such\"\ndirectory = \"/no/such\"\npromote = [\"/etc/passwd\"]\n")
                .replace("127.0.0.1", "192.0.2.1"),
        );
        let want = [
            "x:3: node 0: 192.0.2.1: ",
            "x:6: `web`: `/etc/passwd` is no program here",
            "x:6: `web`: `directory` is /no/such",
            "x:6: `web`: there is no user `nobody-such`",
        ];
        assert_eq!(told.len(), want.len(), "{told:#?}");
        assert!(told.iter().zip(want).all(|(told, want)| told.starts_with(want)), "{told:#?}");
    }

    #[test]
    fn what_a_group_of_files_lacks_here_is_told() {
        let folder = std::env::temp_dir().join(format!("apus-here-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("root")).expect("a folder");
        std::fs::write(folder.join("file"), "").expect("a file");
        let _ = std::os::unix::fs::symlink(folder.join("root"), folder.join("link"));
        let folder = folder.canonicalize().expect("it is there");
        let place = folder.display();
        let said = |root: &str, library: &str| -> Vec<String> {
            let text = format!(
                "cluster = 7\nnode = 0\n[[nodes]]\nid = 0\naddress = \"127.0.0.1\"\n[[services]]\nname = \"db\"\n\
                 command = [\"/bin/sleep\", \"9\"]\n[[groups]]\nname = \"books\"\nservice = \"db\"\nroot = \"{root}\"\n\
                 patterns = [\"*\"]\nlibrary = \"{library}\"\n"
            );
            check_here(&[("x".into(), text)]).iter().map(ToString::to_string).collect()
        };
        let (root, file) = (format!("{place}/root"), format!("{place}/file"));
        assert_eq!(said(&root, &file), [""; 0]);
        for (root, library, want) in [
            (
                root.clone(),
                "/no/such.so".to_owned(),
                "x:9: `books`: /no/such.so is not there, without which".to_owned(),
            ),
            (format!("{place}/none"), file.clone(), format!("x:9: `books`: `root` is {place}/none: No such file")),
            (file.clone(), file.clone(), format!("x:9: `books`: `root` is {file}, which is no folder")),
            (
                format!("{place}/link"),
                file.clone(),
                format!("x:9: `books`: `root` is {place}/link, which leads to {root}"),
            ),
            ("/proc".into(), file.clone(), "x:9: `books`: `root` is /proc, which is a mount point".into()),
        ] {
            let told = said(&root, &library);
            assert!(told.len() == 1 && told[0].starts_with(&want), "{want}\n{told:#?}");
        }
        std::fs::remove_dir_all(folder).expect("ours");
    }
}
