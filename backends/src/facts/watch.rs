//! Being told of changes: links, neighbours and routes, by the kernel's multicast groups.

use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, TrySendError, bounded};
use futures_util::{FutureExt, StreamExt};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::runtime::Builder;

use super::FactError;

/// How long changes are gathered: a route daemon or a link that goes down makes many at once.
const GATHER: Duration = Duration::from_millis(20);

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Tells of changes in the current network namespace, some 20 ms after the first of many. The thread behind it ends when
/// nobody listens any more and the next change comes, or with the process.
///
/// # Errors
/// [`FactError::Netlink`].
pub fn watch() -> Result<Receiver<()>, FactError> {
    let fail = |e: std::io::Error| FactError::Netlink(e.to_string());
    let runtime = Builder::new_current_thread().enable_io().build().map_err(fail)?;
    let inside = runtime.enter();
    let (connection, _, mut messages) = new_multicast_connection(&GROUPS).map_err(fail)?;
    drop(inside);
    runtime.spawn(connection);
    let (tell, told) = bounded(1);
    let listen = move || {
        runtime.block_on(async {
            while messages.next().await.is_some() {
                thread::sleep(GATHER);
                // The socket's messages come through when the connection's task runs.
                tokio::task::yield_now().await;
                while let Some(Some(_)) = messages.next().now_or_never() {}
                // If it is full, the look that is still to come will see this, too.
                if let Err(TrySendError::Disconnected(())) = tell.try_send(()) {
                    return;
                }
            }
        });
    };
    thread::Builder::new().name("changes".into()).spawn(listen).map_err(fail)?;
    Ok(told)
}
