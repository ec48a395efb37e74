//! `--dry-run`: what an order would do, told and not done.

use std::collections::{BTreeMap, BTreeSet};

use apus_dispatch::{Key, Members, NOBODY, primaries};
use apus_engine::{Engine, NodeId, ResourceId};
use serde_json::{Value, json};

use super::control::{NO_ADDRESS, STARTING, Serving};
use super::machine::{is_down, seen};
use crate::Setup;
use crate::forecast::{Change, Forecast, Known};

/// A dispatch table, before it is built.
#[derive(Clone, PartialEq)]
pub(super) struct Table {
    pub(super) key: Key,
    pub(super) log2_slots: u8,
    pub(super) members: Members,
}

impl Serving {
    /// What an order would do.
    pub(super) async fn plan(&self, question: &Value) -> Result<Value, String> {
        let node = || {
            let node = question["node"].as_u64().and_then(|node| u16::try_from(node).ok()).map(NodeId);
            let node = node.ok_or_else(|| "`node` must be a node's number".to_owned())?;
            self.is_member(node).map(|()| node)
        };
        match question["do"].as_str().unwrap_or_default() {
            "move" => {
                let (resource, to) = (self.meant(question)?, node()?);
                self.may_have(resource, to)?;
                if !self.known(|known| known.may_hold(resource, to))? {
                    return Err(format!("node {} may not have {}: it is no candidate", to.0, self.view.name(resource)));
                }
                let forecast = self.known(|known| known.forecast(Change::Move(resource, to)))?;
                Ok(self.told(&forecast, Value::Null, Vec::new()))
            }
            "drain" => self.plan_drain(node()?, true).await,
            "undrain" => self.plan_drain(node()?, false).await,
            "maintain" => self.plan_drain(node()?, question["on"] == true).await,
            "leave" => {
                let node = node()?;
                let forecast = self.known(|known| known.forecast(Change::Leave(node)))?;
                let table = self.tables(|table| Table { members: without(&table.members, node), ..table }).await?;
                Ok(self.told(&forecast, table, self.warnings(node)))
            }
            "set" => {
                let first = self.first.ok_or(NO_ADDRESS)?;
                let (old, new) = {
                    let old = self.set_up(first)?;
                    (old, old.with(question)?)
                };
                let table = self.tables(|table| Table { key: new.key, log2_slots: new.log2_slots, ..table }).await?;
                let mut plan = self.told(&Forecast::default(), table, Vec::new());
                plan["changes"] = changes(old, new).into();
                Ok(plan)
            }
            "apply" => self.plan_apply(question).await,
            "fence" => self.plan_fence(node()?, question),
            other => Err(format!("`{other}` cannot be tried without being done")),
        }
    }

    async fn plan_drain(&self, node: NodeId, on: bool) -> Result<Value, String> {
        let forecast = self.known(|known| known.forecast(Change::Drain(node, on)))?;
        let drains = |mut table: Table| {
            let members = table.members.all().iter().map(|member| {
                let own = member.id == u64::from(node.0);
                apus_dispatch::Member { draining: if own { on } else { member.draining }, ..*member }
            });
            table.members = Members::new(members).unwrap_or_default();
            table
        };
        let table = self.tables(drains).await?;
        Ok(self.told(&forecast, table, if on { self.warnings(node) } else { Vec::new() }))
    }

    /// Who is down, by this node's diagnosis.
    pub(super) fn down(&self, engine: &Engine) -> BTreeSet<NodeId> {
        let Some((_, log, ..)) = engine.look() else { return BTreeSet::new() };
        log.membership().members().into_iter().filter(|node| *node != self.me && is_down(engine, *node)).collect()
    }

    /// Looks at what is known of who holds what.
    fn known<T>(&self, look: impl FnOnce(&Known<'_>) -> T) -> Result<T, String> {
        let engine = self.engine.borrow();
        let (_, log, ..) = engine.look().ok_or(STARTING)?;
        let down = self.down(&engine);
        Ok(look(&Known { config: engine.config(), state: log.state(), members: log.membership(), down }))
    }

    /// What becomes of clients when the table in use becomes another one; nothing where there is no address, or no other table.
    pub(super) async fn tables(&self, change: impl FnOnce(Table) -> Table) -> Result<Value, String> {
        let Some(first) = self.first else { return Ok(Value::Null) };
        let set_up = self.set_up(first)?;
        let seen = seen(&self.engine.borrow(), &self.nodes.borrow(), self.me).ok_or(STARTING)?;
        let old = Table { key: set_up.key, log2_slots: set_up.log2_slots, members: seen.members };
        let new = change(old.clone());
        if old == new {
            return Ok(Value::Null);
        }
        let seed = self.members.config.vip.as_ref().map_or(0, |vip| vip.seed);
        // Up to a million slots twice: not in the engine's thread.
        let compared = tokio::task::spawn_blocking(move || compare(seed, &old, &new)).await;
        compared.map_err(|error| error.to_string())?
    }

    /// As it is answered.
    pub(super) fn told(&self, forecast: &Forecast, table: Value, warnings: Vec<String>) -> Value {
        let names = &self.view;
        let resources: Vec<Value> = forecast
            .steps
            .iter()
            .map(|step| {
                json!({
                    "name": names.name(step.resource), "from": step.from.map(|node| node.0),
                    "to": step.to.map(|node| node.0), "why": step.why,
                })
            })
            .collect();
        let copies: Vec<Value> = forecast
            .acts
            .iter()
            .map(|act| {
                let resource: ResourceId = crate::slot_resource(act.copy.service, act.copy.slot);
                json!({ "name": names.name(resource), "node": act.node.0, "what": act.what })
            })
            .collect();
        json!({
            "dry": true, "changes": [], "resources": resources, "copies": copies, "table": table, "warnings": warnings,
        })
    }
}

fn without(members: &Members, node: NodeId) -> Members {
    Members::new(members.all().iter().filter(|member| member.id != u64::from(node.0)).copied()).unwrap_or_default()
}

/// What is set up anew.
pub(super) fn changes(old: Setup, new: Setup) -> Vec<Value> {
    let (old, new) = (old.json(), new.json());
    let fields = old.as_object().into_iter().flatten();
    fields
        .filter(|(key, value)| new[key.as_str()] != **value)
        .map(|(key, value)| {
            let effect = match key.as_str() {
                "log2_slots" => "few clients move; what they have open goes on where it is",
                "key" => "clients are chosen for anew: what goes elsewhere ends",
                _ => "what clients have open at the old address ends",
            };
            json!({ "what": format!("vip.{key}"), "from": value, "to": new[key.as_str()], "effect": effect, "when": "now" })
        })
        .collect()
}

/// Slots of each server in both tables, and the share of clients that get another server, in thousandths.
fn compare(seed: u64, old: &Table, new: &Table) -> Result<Value, String> {
    let build = |table: &Table| {
        primaries(seed, table.log2_slots, &table.members).map_err(|error| error.to_string()).map(|places| {
            let id = |place: &u16| {
                let member = table.members.all().get(usize::from(*place)).filter(|_| *place != NOBODY);
                member.map(|member| member.id)
            };
            places.iter().map(id).collect::<Vec<Option<u64>>>()
        })
    };
    let (before, after) = (build(old)?, build(new)?);
    let count = |slots: &[Option<u64>]| {
        let mut all: BTreeMap<u64, u64> = BTreeMap::new();
        slots.iter().flatten().for_each(|id| *all.entry(*id).or_default() += 1);
        all
    };
    let (had, has) = (count(&before), count(&after));
    let moved = if old.key == new.key {
        // A slot is the highest bits of a hash: one table's slot is a run of slots of a larger one.
        let many = before.len().max(after.len());
        let at = |slots: &[Option<u64>], slot: usize| slots[slot * slots.len() / many];
        (0..many).filter(|slot| at(&before, *slot) != at(&after, *slot)).count() * 1_000 / many
    } else {
        // Another hash: whoever had a server has it again by chance.
        let (all_before, all_after) = (before.len() as u128, after.len() as u128);
        let same: u128 = had.iter().map(|(id, many)| u128::from(*many) * u128::from(*has.get(id).unwrap_or(&0))).sum();
        1_000 - usize::try_from(same * 1_000 / (all_before * all_after)).unwrap_or_default()
    };
    let ids: BTreeSet<u64> = had.keys().chain(has.keys()).copied().collect();
    let servers: Vec<Value> = ids
        .iter()
        .map(|id| json!({ "node": id, "slots": had.get(id).unwrap_or(&0), "then": has.get(id).unwrap_or(&0) }))
        .collect();
    Ok(json!({ "slots": before.len(), "then": after.len(), "clients_moved_per_mille": moved, "servers": servers }))
}

#[cfg(test)]
mod tests {
    use apus_dispatch::{Key, Member, Members};

    use super::{Table, compare, without};
    use apus_engine::NodeId;

    fn table(servers: u8) -> Table {
        let member = |id: u8| Member { id: id.into(), mac: [2, 0, 0, 0, 0, id + 1], weight: 1, draining: false };
        Table {
            key: Key::Source,
            log2_slots: 12,
            members: Members::new((0..servers).map(member)).expect("they are good"),
        }
    }

    #[test]
    fn clients_that_move_are_counted() {
        let four = table(4);
        let three = Table { members: without(&four.members, NodeId(2)), ..four.clone() };
        let less = compare(5, &four, &three).expect("tables");
        assert!((240..=280).contains(&less["clients_moved_per_mille"].as_u64().expect("a number")), "{less}");
        assert_eq!((&less["servers"][2]["node"], &less["servers"][2]["then"]), (&2.into(), &0.into()), "{less}");
        let larger = compare(5, &four, &Table { log2_slots: 14, ..four.clone() }).expect("tables");
        assert_eq!((larger["slots"].as_u64(), larger["then"].as_u64()), (Some(4_096), Some(16_384)));
        let other = compare(5, &four, &Table { key: Key::Ports, ..four.clone() }).expect("tables");
        assert!((740..=760).contains(&other["clients_moved_per_mille"].as_u64().expect("a number")), "{other}");
        assert_eq!(compare(5, &four, &four).expect("tables")["clients_moved_per_mille"], 0);
    }
}
