//! The engine against oracles that were written from the documents, not from its code: the Maglev paper, the RFCs by way
//! of etherparse, a full-key model of the flow table, a true LRU.

mod bed;
mod flood;
mod flows;
mod hashes;
mod hit_ratio;
mod maglev;
mod methods;
mod mtu;
mod nat;
mod nat_fragments;
mod peers;
mod relayed;
mod strip;
mod tunnels;
mod vlans;
mod writers;
