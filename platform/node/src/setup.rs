//! How the cluster's address is set up: what `apus vip set` changes for all nodes. It travels in the replicated log as JSON.

use std::net::{Ipv4Addr, Ipv6Addr};

use apus_dispatch::Key;
use serde_json::{Value, json};

use crate::Vip;
use crate::config::key_of;

/// What is the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The IPv4 form of the address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 form.
    pub v6: Option<Ipv6Addr>,
    /// What of a packet decides its server.
    pub key: Key,
    /// A table has 2 to this power slots.
    pub log2_slots: u8,
}

impl From<&Vip> for Setup {
    fn from(vip: &Vip) -> Self {
        Self { v4: vip.v4, v6: vip.v6, key: vip.key, log2_slots: vip.log2_slots }
    }
}

impl Setup {
    /// With the fields that are there; `null` keeps what is, `"none"` takes an address away.
    ///
    /// # Errors
    /// The first field that is wrong, and what to write.
    pub fn with(self, fields: &Value) -> Result<Self, String> {
        let mut new = self;
        if let Some(name) = word(fields, "key")? {
            new.key = key_of(name).ok_or_else(|| format!("`key` is `{name}`: use source, ports or quic"))?;
        }
        if let Some(slots) = number(fields, "log2_slots")? {
            let small = u8::try_from(slots).ok().filter(|slots| (4..=20).contains(slots));
            new.log2_slots = small.ok_or_else(|| format!("`log2_slots` is {slots}: use 4 to 20"))?;
        }
        match word(fields, "v4")? {
            None => {}
            Some("none") => new.v4 = None,
            Some(v4) => {
                let usable = |v4: &Ipv4Addr| !(v4.is_unspecified() || v4.is_multicast() || v4.is_loopback());
                let v4 = v4.parse().ok().filter(usable).ok_or_else(|| {
                    format!("`v4` is `{v4}`: use an address of a machine such as 10.0.0.100, or none")
                })?;
                new.v4 = Some(v4);
            }
        }
        match word(fields, "v6")? {
            None => {}
            Some("none") => new.v6 = None,
            Some(v6) => {
                let usable = |v6: &Ipv6Addr| !(v6.is_unspecified() || v6.is_multicast() || v6.is_loopback());
                let v6 =
                    v6.parse().ok().filter(usable).ok_or_else(|| {
                        format!("`v6` is `{v6}`: use an address of a machine such as fd00::100, or none")
                    })?;
                new.v6 = Some(v6);
            }
        }
        if new.v4.is_none() && new.v6.is_none() {
            return Err("no address would be left: give `v4` or `v6` another one instead of none".into());
        }
        Ok(new)
    }

    /// As the log has it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.json().to_string().into_bytes()
    }

    /// What the log has, with this where it says nothing; a later version may say more.
    ///
    /// # Errors
    /// If another version wrote what this one does not understand.
    pub fn read(self, bytes: &[u8]) -> Result<Self, String> {
        let fields = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        self.with(&fields)
    }

    /// For people and programs.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "v4": self.v4.map_or("none".into(), |v4| v4.to_string()),
            "v6": self.v6.map_or("none".into(), |v6| v6.to_string()),
            "key": format!("{:?}", self.key).to_lowercase(),
            "log2_slots": self.log2_slots,
        })
    }
}

fn word<'v>(fields: &'v Value, name: &str) -> Result<Option<&'v str>, String> {
    match &fields[name] {
        Value::Null => Ok(None),
        value => value.as_str().map(Some).ok_or_else(|| format!("`{name}` must be a text")),
    }
}

fn number(fields: &Value, name: &str) -> Result<Option<u64>, String> {
    match &fields[name] {
        Value::Null => Ok(None),
        value => value.as_u64().map(Some).ok_or_else(|| format!("`{name}` must be a number")),
    }
}

#[cfg(test)]
mod tests {
    use apus_dispatch::Key;
    use serde_json::json;

    use super::Setup;

    const SETUP: Setup =
        Setup { v4: Some(std::net::Ipv4Addr::new(10, 0, 0, 100)), v6: None, key: Key::Ports, log2_slots: 14 };

    #[test]
    fn what_is_not_said_stays_and_what_the_log_has_comes_back() {
        assert_eq!(SETUP.with(&json!({})), Ok(SETUP));
        let new = SETUP.with(&json!({"key": "source", "log2_slots": 16, "v6": "fd00::1", "v4": "none"})).expect("good");
        assert_eq!((new.key, new.log2_slots, new.v4), (Key::Source, 16, None));
        assert_eq!(SETUP.read(&new.bytes()), Ok(new));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_write() {
        for (fields, said) in [
            (json!({"key": "colour"}), "`key` is `colour`: use source, ports or quic"),
            (json!({"key": 5}), "`key` must be a text"),
            (json!({"log2_slots": 21}), "`log2_slots` is 21: use 4 to 20"),
            (json!({"v4": "10.0.0"}), "`v4` is `10.0.0`: use an address"),
            (json!({"v4": "224.0.0.1"}), "`v4` is `224.0.0.1`: use an address of a machine"),
            (json!({"v6": "fd00:"}), "`v6` is `fd00:`: use an address"),
            (json!({"v4": "none"}), "no address would be left"),
        ] {
            let error = SETUP.with(&fields).expect_err("it is wrong");
            assert!(error.contains(said), "{fields}: {error}");
        }
    }
}
