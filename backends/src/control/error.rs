//! Why a plan was not applied.

use tandem_engine::memory::root::LAYOUT;

/// Why a plan was not applied. Too many VIPs or reals are found before anything is written; with the others the VIPs that come
/// before the one that is named are in force already, each of them whole.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ControlError {
    /// More ring lines than the tables have.
    #[error(
        "{vip}: its ring of {slots} slots does not fit into the ring memory ({lines} lines of 32 slots, {taken} taken); \
         restart with `tandem detach` before, so that it is made larger (flows are lost), or make rings smaller"
    )]
    RingsFull {
        /// The VIP.
        vip: String,
        /// Slots of its ring.
        slots: u32,
        /// Lines in all.
        lines: u32,
        /// Lines in use.
        taken: u32,
    },
    /// More pairs of VIP and real, and reals of no VIP, than ids.
    #[error(
        "{found} reals over all VIPs and beside them, the tables have room for {most}; restart with `tandem detach` before, so that \
         they are made larger (flows are lost), or remove some"
    )]
    TooManyReals {
        /// Found until there was no more room.
        found: usize,
        /// Limit.
        most: u32,
    },
    /// More VIPs than ids.
    #[error(
        "{found} VIPs with those that are removed, the tables have room for {most}; restart with `tandem detach` before, so that \
         they are made larger (flows are lost), or remove some first"
    )]
    TooManyVips {
        /// Those of the plan, and those that it removes: their ids are free only once it is in force.
        found: usize,
        /// Limit.
        most: u32,
    },
    /// More VIPs and addresses than the VIP table is sure to find places for.
    #[error(
        "{found} VIPs, their addresses and those of tunnels and NAT do not fit into the VIP table; restart with `tandem detach` \
         before, so that it is made larger (flows are lost), or remove some"
    )]
    VipTableSmall {
        /// Entries of the plan.
        found: usize,
    },
    /// Fewer places for connections of NAT than the plan asks for.
    #[error(
        "[nat] asks for {found} places for connections, the table has {places}; restart with `tandem detach` before, so that it \
         is made larger (flows are lost), or ask for fewer"
    )]
    NatTableSmall {
        /// Places of the plan.
        found: u32,
        /// Places of the table.
        places: usize,
    },
    /// The VIP table has no place for the key under any seed.
    #[error("{vip}: the VIP table has no place for it")]
    VipTableFull {
        /// The VIP, or the address.
        vip: String,
    },
    /// More server ids than lines for them.
    #[error(
        "{found} server ids and reals that are down do not fit into the id table of {lines} lines of 5; restart with \
         `tandem detach` before, so that it is made larger (flows are lost), or remove some"
    )]
    IdsFull {
        /// Keys of the plan.
        found: usize,
        /// Lines in all.
        lines: usize,
    },
    /// More prefixes and markers than slots for them.
    #[error(
        "{found} entries for the source routes and VIPs that are prefixes do not fit into a prefix table of {slots} slots; \
         restart with `tandem detach` before, so that it is made larger (flows are lost), or remove some"
    )]
    PrefixesFull {
        /// Prefixes and markers.
        found: usize,
        /// Slots of a half.
        slots: usize,
    },
    /// A worker hangs.
    #[error("a worker did not let go of the old tables within its time; what was removed stays reserved")]
    NoGrace,
    /// The tables belong to another version.
    #[error(
        "the tables have layout {found:#x}, this version has {LAYOUT:#x}; `tandem detach` removes them (their flows are lost)"
    )]
    Layout {
        /// Found.
        found: u32,
    },
}
