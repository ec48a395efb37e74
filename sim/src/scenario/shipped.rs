//! The scenarios that come with the command.

/// A scenario's name and the text of its file.
pub type Shipped = (&'static str, &'static str);

macro_rules! shipped {
    ($($name:literal)*) => {
        const SHIPPED: &[Shipped] = &[$(($name, include_str!(concat!("../../../scenarios/", $name, ".toml"))),)*];
    };
}

shipped! {}

/// Every shipped scenario, by name.
#[must_use]
pub const fn shipped() -> &'static [Shipped] {
    SHIPPED
}
