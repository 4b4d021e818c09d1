//! Captures on the wire.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::Stream;
use tandem_backends::capture::{Classic, Fate, Frame, Part, RATE, Wish};
use tandem_backends::run::{CaptureStream, CaptureWish};
use tandem_backends::xdp::check_filter;
use tandem_engine::From as ChosenBy;
use tokio::sync::mpsc::{Receiver, channel};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};
use tonic::{Request, Status};

use crate::balancer::bad;
use crate::wire;

/// Parts on their way to the client.
const AHEAD: usize = 4;

/// What a client asks for.
///
/// # Errors
/// It makes no sense.
pub(crate) fn asked(request: &Request<wire::CaptureRequest>) -> Result<CaptureWish, Status> {
    let wire::CaptureRequest { filter, sample, rate, snap } = request.get_ref();
    let or = |number: u32, default: u32| if number == 0 { default } else { number };
    let filter = filter.iter().map(instruction).collect::<Option<Vec<_>>>();
    let filter = filter.ok_or_else(|| bad("the filter has a number in it that no instruction of classic BPF has"))?;
    check_filter(&filter).map_err(bad)?;
    let wish = Wish { filter, sample: or(*sample, 1), rate: or(*rate, RATE), snap: or(*snap, u32::MAX) };
    Ok(CaptureWish { wish, who: who(request) })
}

fn instruction(found: &wire::FilterInstruction) -> Option<Classic> {
    let wire::FilterInstruction { code, jt, jf, k } = *found;
    Some(Classic { code: code.try_into().ok()?, jt: jt.try_into().ok()?, jf: jf.try_into().ok()?, k })
}

/// Whoever asks: a process of this host, or an address.
fn who<T>(request: &Request<T>) -> String {
    let credentials = request.extensions().get::<UdsConnectInfo>().and_then(|socket| socket.peer_cred);
    if let Some(who) = credentials {
        let process = who.pid().map_or_else(String::new, |id| format!("process {id} of "));
        return format!("{process}user {}", who.uid());
    }
    let tls = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let address = tls.and_then(|tls| tls.get_ref().remote_addr());
    address.map_or_else(|| "somebody".to_owned(), |address| address.to_string())
}

/// Parts for a client; when it goes away, whoever tells them notices.
pub(crate) struct Parts(Receiver<wire::CapturePart>);

impl Stream for Parts {
    type Item = Result<wire::CapturePart, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(ready!(self.0.poll_recv(context)).map(Ok))
    }
}

/// Hands on what is told, for as long as the client is there.
pub(crate) fn parts(stream: CaptureStream) -> Parts {
    let (to, parts) = channel(AHEAD);
    let mut interfaces: Vec<_> =
        stream.interfaces.into_iter().map(|(index, name)| wire::CaptureInterface { index, name }).collect();
    let told = stream.parts;
    tokio::task::spawn_blocking(move || {
        for part in &told {
            let part = wire::CapturePart { interfaces: std::mem::take(&mut interfaces), ..part.into() };
            if to.blocking_send(part).is_err() {
                return;
            }
        }
    });
    Parts(parts)
}

impl From<Part> for wire::CapturePart {
    fn from(part: Part) -> Self {
        let counts = part.counts;
        Self {
            frames: part.frames.into_iter().map(Into::into).collect(),
            counts: Some(wire::CaptureCounts {
                accepted: counts.accepted,
                limited: counts.limited,
                captured: counts.captured,
                lost: counts.lost,
            }),
            now: part.now,
            interfaces: Vec::new(),
        }
    }
}

impl From<Frame> for wire::CapturedFrame {
    fn from(frame: Frame) -> Self {
        Self {
            mark: frame.mark,
            time: frame.time,
            interface: frame.interface,
            queue: frame.queue,
            fate: frame.fate.map(Into::into),
            length: frame.len,
            data: frame.bytes,
        }
    }
}

impl From<Fate> for wire::CapturedFate {
    fn from(Fate { reason, real, from }: Fate) -> Self {
        Self {
            action: reason.action().name().to_owned(),
            reason: reason.name().to_owned(),
            real: real.map(|real| real.to_string()).unwrap_or_default(),
            from: from.map(ChosenBy::name).unwrap_or_default().to_owned(),
        }
    }
}
