//! Katran's gRPC service, so that a client that was written for it can provision Tandem.
//!
//! The meanings are those of Katran's library, with one difference: what it reports as done and is not (a failing write, a
//! server id that goes on routing after it was deleted, a ring that keeps its last real) is done here, or reported as `false`.

use std::net::IpAddr;
use std::sync::Arc;

use tandem_backends::config::{Plan, Protocol, Real, Vip, VipFlags};
use tonic::{Request, Response, Status};

use crate::balancer::waiting;
use crate::document::{Draft, EditError, Pair, texts};
use crate::katran_wire as wire;
use crate::names::{NotAService, Service};
use crate::provision::{Provision, ProvisionError};

/// The flags of a real: its family, which no caller sets, and that it is this machine.
const REAL_IPV6: u32 = 1;
const REAL_LOCAL: u32 = 2;

/// The service over one balancer.
#[derive(Clone)]
pub(crate) struct Katran(pub(crate) Arc<Provision>);

type Answer<T> = Result<Response<T>, Status>;

/// An edit that Katran would call a failure, and why.
enum Failed {
    /// The caller's message makes no sense.
    Message(String),
    /// The balancer refuses.
    Refused(Status),
}

impl From<NotAService> for Failed {
    fn from(error: NotAService) -> Self {
        Self::Message(error.to_string())
    }
}

fn service(vip: Option<&wire::Vip>) -> Result<Service, NotAService> {
    let nothing = wire::Vip::default();
    let vip = vip.unwrap_or(&nothing);
    let number = |protocol: Protocol| i32::from(protocol.number());
    let protocol = [Protocol::Tcp, Protocol::Udp].into_iter().find(|protocol| number(*protocol) == vip.protocol);
    // The address is looked at first: a message without one says so.
    let checked = Service::new(&vip.address, 0, Protocol::Tcp)?;
    let port = u16::try_from(vip.port).ok();
    match (port, protocol) {
        (Some(port), Some(protocol)) => Ok(Service { port, protocol, ..checked }),
        // Neither is a service: the text of the error says how one is written.
        _ => Service::new(&format!("{} port {} protocol {}", vip.address, vip.port, vip.protocol), 0, Protocol::Tcp),
    }
}

fn real(address: &str) -> Result<IpAddr, Failed> {
    address.parse().map_err(|_| Failed::Message(format!("not the address of a real (found {address:?})")))
}

fn flags_value(flags: VipFlags) -> Option<toml_edit::Value> {
    let names: Vec<String> = flags.names().into_iter().map(str::to_owned).collect();
    (!names.is_empty()).then(|| texts(&names))
}

fn vip_flags(flags: i64) -> Result<VipFlags, Failed> {
    let known = u32::try_from(flags).ok().and_then(VipFlags::from_bits);
    known.ok_or_else(|| Failed::Message(format!("flags that no VIP has (found {flags}); known: {}", VipFlags::all().bits())))
}

fn real_flags(real: &Real) -> u32 {
    let of = |is_so: bool, flag: u32| if is_so { flag } else { 0 };
    of(real.address.is_ipv6(), REAL_IPV6) | of(real.local, REAL_LOCAL)
}

fn find<'p>(plan: &'p Plan, service: &Service) -> Option<&'p Vip> {
    plan.vips.iter().find(|vip| Service::of(vip) == *service)
}

fn find_in<'p>(plan: &'p Plan, service: &Service) -> Result<&'p Vip, EditError> {
    find(plan, service).ok_or(EditError::NoVip(*service))
}

/// Adds the reals that are new and changes the weight of the others, or removes those that are there: one change for all of
/// them. What is no address is skipped.
fn modify_reals(
    draft: &mut Draft,
    plan: &Plan,
    service: &Service,
    action: wire::Action,
    reals: &[wire::Real],
) -> Result<(), EditError> {
    let mut there: Vec<IpAddr> = find_in(plan, service)?.reals.iter().map(|real| real.address).collect();
    for wanted in reals {
        let Ok(address) = wanted.address.parse::<IpAddr>() else {
            log::warn!("katran: {service}: {:?} is no address, and skipped", wanted.address);
            continue;
        };
        let is_there = there.contains(&address);
        let weight = ("weight", Some(i64::from(wanted.weight).into()));
        match (action, is_there) {
            (wire::Action::Add, true) => draft.set_real(service, address, vec![weight])?,
            (wire::Action::Add, false) => {
                let local = wanted.flags.cast_unsigned() & REAL_LOCAL != 0;
                draft.add_real(service, address, vec![weight, ("local", local.then(|| true.into()))])?;
                there.push(address);
            }
            (wire::Action::Del, true) => {
                draft.remove_real(service, address)?;
                there.retain(|other| *other != address);
            }
            (wire::Action::Del, false) => log::warn!("katran: {service}: no real {address} to delete"),
        }
    }
    Ok(())
}

impl Katran {
    /// Makes an edit, and answers whether it was done.
    async fn done(
        &self,
        what: &'static str,
        edit: Result<impl FnOnce(&mut Draft, &Plan) -> Result<(), EditError> + Send + 'static, Failed>,
    ) -> Answer<wire::Bool> {
        let result = match edit {
            Err(failed) => Err(failed),
            Ok(edit) => waiting(&self.0, |provision| provision.change(0, edit)).await.map_err(Failed::Refused),
        };
        let success = match result {
            Ok(_) => true,
            Err(Failed::Message(why)) => {
                log::warn!("katran: {what}: {why}");
                false
            }
            // Whoever asks a balancer that ends shall not take it for an answer.
            Err(Failed::Refused(status)) if status.code() == tonic::Code::Unavailable => return Err(status),
            Err(Failed::Refused(status)) => {
                log::warn!("katran: {what}: {}", status.message());
                false
            }
        };
        Ok(Response::new(wire::Bool { success }))
    }

    /// Looks something up in the plan in force.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Plan) -> Result<T, ProvisionError> + Send + 'static,
    ) -> Result<T, Status> {
        waiting(&self.0, |provision| look(&provision.in_force()?.plan)).await
    }

    async fn of_vip<T: Send + 'static>(
        &self,
        vip: &wire::Vip,
        look: impl FnOnce(&Vip) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let service = service(Some(vip)).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.look(move |plan| Ok(look(find_in(plan, &service)?))).await
    }

    /// Two events, summed over both seats.
    async fn events(&self, v1: &'static str, v2: &'static str) -> Answer<wire::Stats> {
        let counters = waiting(&self.0, Provision::counters).await?;
        let sum = |event| [&counters.xdp, &counters.afxdp].iter().filter_map(|seat| seat.events.get(event)).sum();
        Ok(Response::new(wire::Stats { v1: sum(v1), v2: sum(v2) }))
    }

    /// A real's weight, added or changed, or the real removed.
    async fn modify(
        &self,
        what: &'static str,
        action: Result<wire::Action, Failed>,
        vip: Option<wire::Vip>,
        reals: Vec<wire::Real>,
    ) -> Answer<wire::Bool> {
        let asked = action.and_then(|action| Ok((action, service(vip.as_ref())?)));
        let edit = asked
            .map(|(action, service)| move |draft: &mut Draft, plan: &Plan| modify_reals(draft, plan, &service, action, &reals));
        self.done(what, edit).await
    }
}

fn action(number: i32) -> Result<wire::Action, Failed> {
    wire::Action::try_from(number).map_err(|_| Failed::Message(format!("no action (found {number}); ADD is 0, DEL 1")))
}

#[tonic::async_trait]
impl wire::katran_service_server::KatranService for Katran {
    async fn change_mac(&self, request: Request<wire::Mac>) -> Answer<wire::Bool> {
        let mac = request.into_inner().mac;
        let edit = move |draft: &mut Draft, _: &Plan| {
            draft.set_once("node", "next_hop_mac", Some(mac.into()));
            Ok(())
        };
        self.done("changeMac", Ok(edit)).await
    }

    async fn get_mac(&self, _: Request<wire::Empty>) -> Answer<wire::Mac> {
        let mac = self.look(|plan| Ok(plan.next_hop_mac.map(|mac| mac.to_string()).unwrap_or_default())).await?;
        Ok(Response::new(wire::Mac { mac }))
    }

    async fn add_vip(&self, request: Request<wire::VipMeta>) -> Answer<wire::Bool> {
        let meta = request.into_inner();
        let asked = service(meta.vip.as_ref()).map_err(Failed::from).and_then(|vip| Ok((vip, vip_flags(meta.flags)?)));
        let edit =
            asked.map(|(vip, flags)| move |draft: &mut Draft, _: &Plan| draft.add_vip(&vip, vec![("flags", flags_value(flags))]));
        self.done("addVip", edit).await
    }

    async fn del_vip(&self, request: Request<wire::Vip>) -> Answer<wire::Bool> {
        let asked = service(Some(request.get_ref())).map_err(Failed::from);
        self.done("delVip", asked.map(|vip| move |draft: &mut Draft, _: &Plan| draft.remove_vip(&vip))).await
    }

    async fn get_all_vips(&self, _: Request<wire::Empty>) -> Answer<wire::Vips> {
        let vips = self.look(|plan| Ok(plan.vips.iter().map(vip_to_wire).collect())).await?;
        Ok(Response::new(wire::Vips { vips }))
    }

    async fn modify_vip(&self, request: Request<wire::VipMeta>) -> Answer<wire::Bool> {
        let meta = request.into_inner();
        let asked = service(meta.vip.as_ref()).map_err(Failed::from).and_then(|vip| Ok((vip, vip_flags(meta.flags)?)));
        let edit = asked.map(|(vip, flags)| {
            move |draft: &mut Draft, plan: &Plan| {
                let had = find_in(plan, &vip)?.flags;
                let has = if meta.set_flag { had | flags } else { had - flags };
                draft.set_vip(&vip, vec![("flags", flags_value(has))])
            }
        });
        self.done("modifyVip", edit).await
    }

    async fn modify_real(&self, request: Request<wire::RealMeta>) -> Answer<wire::Bool> {
        let meta = request.into_inner();
        let edit = real(&meta.address).map(|real| {
            move |draft: &mut Draft, plan: &Plan| {
                let having: Vec<Service> =
                    plan.vips.iter().filter(|vip| vip.reals.iter().any(|r| r.address == real)).map(Service::of).collect();
                if having.is_empty() {
                    return Err(EditError::RealNowhere(real));
                }
                // The family is no caller's to set.
                let local = meta.flags.cast_unsigned() & REAL_LOCAL != 0;
                let pairs: Vec<Pair> = local.then(|| ("local", meta.set_flag.then(|| true.into()))).into_iter().collect();
                having.iter().try_for_each(|vip| draft.set_real(vip, real, pairs.clone()))
            }
        });
        self.done("modifyReal", edit).await
    }

    async fn get_vip_flags(&self, request: Request<wire::Vip>) -> Answer<wire::Flags> {
        let flags = self.of_vip(request.get_ref(), |vip| vip.flags.bits()).await?;
        Ok(Response::new(wire::Flags { flags: flags.into() }))
    }

    async fn get_real_flags(&self, request: Request<wire::Real>) -> Answer<wire::Flags> {
        let address: IpAddr = request.get_ref().address.parse().map_err(|_| {
            Status::invalid_argument(format!("not the address of a real (found {:?})", request.get_ref().address))
        })?;
        let flags = self.look(move |plan| {
            let found = plan.vips.iter().flat_map(|vip| &vip.reals).find(|real| real.address == address);
            Ok(real_flags(found.ok_or(EditError::RealNowhere(address))?))
        });
        Ok(Response::new(wire::Flags { flags: flags.await?.into() }))
    }

    async fn add_real_for_vip(&self, request: Request<wire::RealForVip>) -> Answer<wire::Bool> {
        let wire::RealForVip { real, vip } = request.into_inner();
        self.modify("addRealForVip", Ok(wire::Action::Add), vip, real.into_iter().collect()).await
    }

    async fn del_real_for_vip(&self, request: Request<wire::RealForVip>) -> Answer<wire::Bool> {
        let wire::RealForVip { real, vip } = request.into_inner();
        self.modify("delRealForVip", Ok(wire::Action::Del), vip, real.into_iter().collect()).await
    }

    async fn modify_reals_for_vip(&self, request: Request<wire::ModifiedRealsForVip>) -> Answer<wire::Bool> {
        let wire::ModifiedRealsForVip { action: number, real, vip } = request.into_inner();
        self.modify("modifyRealsForVip", action(number), vip, real.unwrap_or_default().reals).await
    }

    async fn get_reals_for_vip(&self, request: Request<wire::Vip>) -> Answer<wire::Reals> {
        let to_wire = |real: &Real| wire::Real {
            address: real.address.to_string(),
            weight: real.weight.cast_signed(),
            flags: real_flags(real).cast_signed(),
        };
        let reals = self.of_vip(request.get_ref(), move |vip| vip.reals.iter().map(to_wire).collect()).await?;
        Ok(Response::new(wire::Reals { reals }))
    }

    async fn modify_quic_reals_mapping(&self, request: Request<wire::ModifiedQuicReals>) -> Answer<wire::Bool> {
        let wire::ModifiedQuicReals { action: number, reals } = request.into_inner();
        let edit = action(number).map(|action| {
            move |draft: &mut Draft, _: &Plan| {
                for mapped in reals.unwrap_or_default().qreals {
                    let Ok(address) = mapped.address.parse::<IpAddr>() else {
                        log::warn!("katran: server id {}: {:?} is no address, and skipped", mapped.id, mapped.address);
                        continue;
                    };
                    let value = (action == wire::Action::Add).then(|| address.to_string().into());
                    draft.set_once("server_ids", &mapped.id.to_string(), value);
                }
                Ok(())
            }
        });
        self.done("modifyQuicRealsMapping", edit).await
    }

    async fn get_quic_reals_mapping(&self, _: Request<wire::Empty>) -> Answer<wire::QuicReals> {
        let mapped = |(id, real): &(u32, IpAddr)| wire::QuicReal { address: real.to_string(), id: id.cast_signed() };
        let qreals = self.look(move |plan| Ok(plan.server_ids.iter().map(mapped).collect())).await?;
        Ok(Response::new(wire::QuicReals { qreals }))
    }

    async fn get_stats_for_vip(&self, request: Request<wire::Vip>) -> Answer<wire::Stats> {
        let service = service(Some(request.get_ref())).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let stats = waiting(&self.0, move |provision| crate::stats::of(provision, Some(service))).await?;
        let vip = stats.vips.into_iter().next().unwrap_or_default();
        Ok(Response::new(wire::Stats { v1: vip.packets, v2: vip.bytes }))
    }

    async fn get_lru_stats(&self, _: Request<wire::Empty>) -> Answer<wire::Stats> {
        self.events("vip-packets", "ring-decisions").await
    }

    async fn get_lru_miss_stats(&self, _: Request<wire::Empty>) -> Answer<wire::Stats> {
        self.events("miss-tcp-syn", "miss-tcp-other").await
    }

    async fn get_lru_fallback_stats(&self, _: Request<wire::Empty>) -> Answer<wire::Stats> {
        // There is one flow table for all cores: none falls back to another.
        Ok(Response::new(wire::Stats::default()))
    }

    async fn get_icmp_too_big_stats(&self, _: Request<wire::Empty>) -> Answer<wire::Stats> {
        self.events("too-big-v4", "too-big-v6").await
    }

    async fn add_healthchecker_dst(&self, request: Request<wire::Healthcheck>) -> Answer<wire::Bool> {
        let wire::Healthcheck { somark, address } = request.into_inner();
        let edit = real(&address).map(|real| move |draft: &mut Draft, _: &Plan| draft.set_mark(somark, Some(real)));
        self.done("addHealthcheckerDst", edit).await
    }

    async fn del_healthchecker_dst(&self, request: Request<wire::Somark>) -> Answer<wire::Bool> {
        let mark = request.into_inner().somark;
        let edit = move |draft: &mut Draft, plan: &Plan| {
            if !plan.health_encaps.iter().any(|probe| probe.mark == mark) {
                return Err(EditError::Invalid(format!("no real has the mark {mark}")));
            }
            draft.set_mark(mark, None)
        };
        self.done("delHealthcheckerDst", Ok(edit)).await
    }

    async fn get_healthcheckers_dst(&self, _: Request<wire::Empty>) -> Answer<wire::HcMap> {
        let healthchecks = self
            .look(|plan| Ok(plan.health_encaps.iter().map(|probe| (probe.mark.cast_signed(), probe.real.to_string())).collect()));
        Ok(Response::new(wire::HcMap { healthchecks: healthchecks.await? }))
    }
}

fn vip_to_wire(vip: &Vip) -> wire::Vip {
    let service = Service::of(vip);
    wire::Vip { address: service.address_text(), port: vip.port.into(), protocol: vip.protocol.number().into() }
}
