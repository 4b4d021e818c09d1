//! Routes for VIPs, which a routing daemon exports: they are ours by their protocol number, in a table of their own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, RouteMessageBuilder};
use tandem_backends::config::Announce;

/// A destination: address and length.
type Destination = (IpAddr, u8);

/// The routes that are announced.
#[derive(Default)]
pub(super) struct Routes {
    /// Where, if any ever were.
    announce: Option<Announce>,
    there: BTreeSet<Destination>,
}

impl Routes {
    /// Makes the kernel have routes to `wanted` and no others of ours. What fails is said, and tried again the next time.
    pub(super) async fn set(&mut self, announce: Announce, interfaces: &[String], wanted: BTreeSet<Destination>) {
        if self.announce.is_some_and(|before| before != announce) {
            self.withdraw().await;
        }
        let is_first = self.announce.is_none();
        if wanted == self.there && !is_first {
            return;
        }
        match change(announce, interfaces, &wanted).await {
            Ok(()) => {
                for (address, len) in wanted.difference(&self.there) {
                    log::info!("{address}/{len}: announced");
                }
                for (address, len) in self.there.difference(&wanted) {
                    log::warn!("{address}/{len}: not announced any more: too few healthy reals");
                }
                (self.announce, self.there) = (Some(announce), wanted);
            }
            Err(error) => log::error!("routes for VIPs: {error}; announced is what was before"),
        }
    }

    /// Takes all of them away.
    pub(super) async fn withdraw(&mut self) {
        let Some(announce) = self.announce.take() else { return };
        if let Err(error) = change(announce, &[], &BTreeSet::new()).await {
            log::error!(
                "routes for VIPs: {error}; some may be left, with protocol {} in table {}",
                announce.protocol,
                announce.table
            );
        }
        self.there.clear();
    }
}

/// Compares what is wanted with what the kernel has, which may be another process's, and writes the difference.
async fn change(announce: Announce, interfaces: &[String], wanted: &BTreeSet<Destination>) -> Result<(), String> {
    let text = |error: rtnetlink::Error| error.to_string();
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let result: Result<(), String> = async {
        let found = found(&handle, announce).await.map_err(text)?;
        for (destination, message) in &found {
            if !wanted.contains(destination) {
                handle.route().del(message.clone()).execute().await.map_err(text)?;
            }
        }
        let there: BTreeSet<Destination> = found.into_iter().map(|(destination, _)| destination).collect();
        let missing: Vec<&Destination> = wanted.difference(&there).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let interface = interfaces.first().ok_or("the configuration names no interface")?;
        let mut links = handle.link().get().match_name(interface.clone()).execute();
        let link = links.try_next().await.map_err(text)?.ok_or_else(|| format!("no interface {interface}"))?;
        for (address, len) in missing {
            let message = message(announce, *address, *len, link.header.index);
            handle.route().add(message).execute().await.map_err(|error| format!("{address}/{len}: {error}"))?;
        }
        Ok(())
    }
    .await;
    connection.abort();
    result
}

fn message(announce: Announce, address: IpAddr, len: u8, link: u32) -> RouteMessage {
    let protocol = RouteProtocol::from(announce.protocol);
    match address {
        IpAddr::V4(v4) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4, len)
            .output_interface(link)
            .table_id(announce.table)
            .protocol(protocol)
            .build(),
        IpAddr::V6(v6) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(v6, len)
            .output_interface(link)
            .table_id(announce.table)
            .protocol(protocol)
            .build(),
    }
}

/// The routes that are ours.
async fn found(handle: &Handle, announce: Announce) -> Result<Vec<(Destination, RouteMessage)>, rtnetlink::Error> {
    let mut routes = Vec::new();
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for all in [v4, v6] {
        let mut dump = handle.route().get(all).execute();
        while let Some(route) = dump.try_next().await? {
            let table = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Table(table) => Some(*table),
                _ => None,
            });
            let is_ours = route.header.protocol == RouteProtocol::from(announce.protocol)
                && table.unwrap_or(route.header.table.into()) == announce.table;
            let address = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
                RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
                _ => None,
            });
            if let (true, Some(address)) = (is_ours, address) {
                routes.push(((address, route.header.destination_prefix_length), route));
            }
        }
    }
    Ok(routes)
}
