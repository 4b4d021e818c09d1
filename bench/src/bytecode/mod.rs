//! The balancer's own bytecode in userspace, compiled by rbpf: "the same bytecode" beside "the same Rust core".
//!
//! What a kernel does for a program is done here: its maps are the tables in the memory of this process, its helpers are the few
//! that the balancer calls in mode xdp, and an XDP context is three positions of 32 bits, so that packets live below 4 GiB.

mod link;

use std::ffi::c_void;
use std::num::NonZero;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use aya_obj::generated::bpf_func_id;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rbpf::EbpfVmMbuff;
use tandem_backends::memory::Tables;

use crate::batches::FRAMES;
use crate::scenario::Rng;
use crate::timing::{Series, thread_time};

/// A packet's memory, aligned to its size.
const CHUNK: usize = 2048;
/// Chunks that packets go through, as in the worker's batches.
const CHUNKS: usize = 512;
/// Bytes in front of a packet, as the kernel leaves (`XDP_PACKET_HEADROOM`).
const HEADROOM: usize = 256;
/// Room for the compiled program: a few machine instructions for each of at most 18,000.
const CODE: usize = 1 << 20;

/// `enum xdp_action`.
pub const XDP_TX: u32 = 3;

/// The kernel's clock, as the helper gives it.
static JIFFIES: AtomicU64 = AtomicU64::new(0);

/// What an XDP program is called with (`struct xdp_md`).
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// The balancer's bytecode on tables, and packets for it.
pub struct Bytecode {
    program: Vec<u8>,
    _parts: link::Parts,
    _tables: Arc<Tables>,
    packets: Mapping,
}

impl Bytecode {
    /// Links the program to `tables`.
    ///
    /// # Errors
    /// An object that is not the balancer's, or no memory.
    pub fn new(tables: Arc<Tables>) -> Result<Self> {
        let (program, parts) = link::link(&tables)?;
        let packets = Mapping::new(CHUNKS * CHUNK, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_32BIT)?;
        Ok(Self { program, _parts: parts, _tables: tables, packets })
    }

    /// Runs `work` with the compiled program.
    ///
    /// # Errors
    /// A program that rbpf does not take.
    pub fn with<T>(&mut self, work: impl FnOnce(&mut Machine<'_>) -> Result<T>) -> Result<T> {
        let mut code =
            Mapping::new(CODE, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC, MapFlags::empty())?;
        let failed = |what: &str, error: rbpf::lib::Error| anyhow!("rbpf: {what}: {error:?}");
        let mut vm = EbpfVmMbuff::new(None).map_err(|e| failed("a new machine", e))?;
        // The kernel's verifier has seen the program; rbpf's allows no stack of one's own.
        vm.set_verifier(|_| Ok(())).map_err(|e| failed("no verifier", e))?;
        vm.set_program(&self.program).map_err(|e| failed("the program", e))?;
        for (id, helper) in HELPERS {
            vm.register_helper(id as u32, helper).map_err(|e| failed("a helper", e))?;
        }
        vm.set_jit_exec_memory(code.bytes()).map_err(|e| failed("memory for the code", e))?;
        vm.jit_compile().map_err(|e| failed("the compiler", e))?;
        work(&mut Machine { vm, packets: &mut self.packets, context: XdpMd::default() })
    }
}

/// A compiled program.
pub struct Machine<'a> {
    vm: EbpfVmMbuff<'a>,
    packets: &'a mut Mapping,
    context: XdpMd,
}

impl Machine<'_> {
    /// Sends one frame through; what became of it (`enum xdp_action`), and its bytes.
    ///
    /// # Errors
    /// A frame that no chunk has room for.
    pub fn frame(&mut self, frame: &[u8]) -> Result<(u32, &[u8])> {
        self.arrive(0, frame).context("a frame without room")?;
        let action = self.run(0, frame.len())?;
        let start = self.packets.start() as u32;
        let (from, to) = ((self.context.data - start) as usize, (self.context.data_end - start) as usize);
        Ok((action, self.packets.bytes().get(from..to).context("the program left its packet")?))
    }

    /// Sends random flows through, of so many, and adds what each packet took.
    ///
    /// # Errors
    /// Not all of them were forwarded.
    pub fn measure(&mut self, template: &[u8], rng: &mut Rng, flows: u32, series: &mut Series) -> Result<()> {
        let (before, mut sent) = (thread_time(), 0);
        for number in 0..FRAMES as usize {
            sent += u32::from(self.flow(number % CHUNKS, template, rng.below(flows))? == XDP_TX);
        }
        series.add(thread_time() - before, FRAMES);
        ensure!(sent == FRAMES, "{sent} of {FRAMES} frames were forwarded");
        Ok(())
    }

    /// Sends every flow once, twice over, so that all are known and protected.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn warm_up(&mut self, template: &[u8], flows: u32) -> Result<()> {
        for number in 0..2 * flows {
            self.flow(number as usize % CHUNKS, template, number % flows)?;
        }
        Ok(())
    }

    /// The frame of a flow, as the worker's batches number them.
    #[inline]
    fn flow(&mut self, chunk: usize, template: &[u8], flow: u32) -> Result<u32> {
        let packet = self.arrive(chunk, template).context("a frame without room")?;
        let fields = [(28, (flow >> 14) as u16), (34, 1024 + (flow & 0x3fff) as u16)];
        for (at, number) in fields {
            if let Some(field) = packet.get_mut(at..at + 2) {
                field.copy_from_slice(&number.to_be_bytes());
            }
        }
        self.run(chunk, template.len())
    }

    #[inline]
    fn arrive(&mut self, chunk: usize, frame: &[u8]) -> Option<&mut [u8]> {
        let at = chunk * CHUNK + HEADROOM;
        let packet = self.packets.bytes().get_mut(at..at + frame.len()).filter(|_| HEADROOM + frame.len() <= CHUNK)?;
        packet.copy_from_slice(frame);
        Some(packet)
    }

    #[inline]
    fn run(&mut self, chunk: usize, len: usize) -> Result<u32> {
        let data = (self.packets.start() + chunk * CHUNK + HEADROOM) as u32;
        self.context = XdpMd { data, data_end: data + len as u32, data_meta: data, ..XdpMd::default() };
        let context = (&raw mut self.context).cast::<u8>();
        // SAFETY: the context is plain old data of this size, and nobody else has it while the program runs; rbpf asks for a
        // lifetime that only its own buffers have, and keeps nothing.
        let context = unsafe { std::slice::from_raw_parts_mut(context, size_of::<XdpMd>()) };
        // SAFETY: the verifier of a kernel has proved that this bytecode touches its context, its packet, its stack and its maps
        // alone, as `link` and the helpers here give them to it.
        let result = unsafe { self.vm.execute_program_jit(&mut [], context) };
        Ok(result.map_err(|error| anyhow!("rbpf: {error:?}"))? as u32)
    }
}

/// Moves the clock, in ticks of the flow table.
pub fn set_tick(tick: u32) {
    JIFFIES.store(u64::from(tick) << TICK_SHIFT, Ordering::Relaxed);
}

/// Jiffies in a tick of the coarse clock, as a power of two (`TICK_SHIFT` in bpf/src/tables.rs).
const TICK_SHIFT: u32 = 6;

type Helper = fn(u64, u64, u64, u64, u64) -> u64;

/// What the balancer may call in mode xdp without fragments of tunnels on other interfaces.
const HELPERS: [(bpf_func_id, Helper); 7] = [
    (bpf_func_id::BPF_FUNC_map_lookup_elem, lookup),
    (bpf_func_id::BPF_FUNC_get_smp_processor_id, |_, _, _, _, _| 0),
    (bpf_func_id::BPF_FUNC_jiffies64, |_, _, _, _, _| JIFFIES.load(Ordering::Relaxed)),
    // No program is there: it goes on.
    (bpf_func_id::BPF_FUNC_tail_call, |_, _, _, _, _| u64::MAX),
    (bpf_func_id::BPF_FUNC_redirect_map, |_, _, action, _, _| action & 0xffff_ffff),
    (bpf_func_id::BPF_FUNC_xdp_adjust_head, |context, by, _, _, _| adjust(context, by as i32, 0)),
    (bpf_func_id::BPF_FUNC_xdp_adjust_tail, |context, by, _, _, _| adjust(context, 0, by as i32)),
];

fn lookup(map: u64, key: u64, _: u64, _: u64, _: u64) -> u64 {
    // SAFETY: `link` put the address of an area there that lives as long as the program.
    let area = unsafe { &*(map as *const link::Area) };
    // SAFETY: the verifier has proved that the key is four readable bytes on the stack.
    let key = unsafe { (key as *const u32).read_unaligned() };
    area.entry(key)
}

/// As `bpf_xdp_adjust_head` and `bpf_xdp_adjust_tail` (net/core/filter.c).
fn adjust(context: u64, head: i32, tail: i32) -> u64 {
    const ETH_HLEN: u32 = 14;
    // SAFETY: `Machine::run` gave the address of its context to the program, which hands on what it got.
    let context = unsafe { &mut *(context as *mut XdpMd) };
    let (data, end) = (context.data.wrapping_add_signed(head), context.data_end.wrapping_add_signed(tail));
    let chunk = context.data & !(CHUNK as u32 - 1);
    if data < chunk || end > chunk + CHUNK as u32 || data + ETH_HLEN > end {
        return -22_i64 as u64; // EINVAL
    }
    (context.data, context.data_meta, context.data_end) = (data, data, end);
    0
}

/// Anonymous memory of this process.
struct Mapping {
    start: NonNull<c_void>,
    len: usize,
}

impl Mapping {
    fn new(len: usize, protection: ProtFlags, flags: MapFlags) -> Result<Self> {
        let size = NonZero::new(len).context("no bytes")?;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(None, size, protection, MapFlags::MAP_PRIVATE | flags) };
        Ok(Self { start: start.context("memory for packets or code")?, len })
    }

    fn start(&self) -> usize {
        self.start.as_ptr() as usize
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping has so many bytes, lives as long as `self`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` mapped just this, and no reference outlives `self`.
        if let Err(error) = unsafe { munmap(self.start, self.len) } {
            log::error!("cannot unmap {} bytes: {error}", self.len);
        }
    }
}
