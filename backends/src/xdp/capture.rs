//! The kernel seat's side of a capture: the filter in the program, and what the program tells.

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use object::{Object, ObjectSection, ObjectSymbol};
use tandem_engine::capture::Sight;

use super::error::{XdpError, chain};
use super::object::OBJECT;
use crate::capture::{Classic, Counts, Wish, translated};

/// The function whose instructions are those of the filter.
const FILTER: &str = "tandem_filter";
/// Words of the program's state of a capture (`State` in bpf/src/capture.rs).
const WORDS: usize = 9;
/// Bytes of all that is told and not yet read, at least and at most.
const ROOM: (u64, u64) = (1 << 20, 1 << 26);
/// Bytes of a frame as large as most are, at most.
const USUAL: u32 = 1536;

/// Sights of one look: whoever is slower than the program must not go on for ever.
const AT_ONCE: usize = 8192;

/// Bytes for all that is told and not yet read: what a full bucket lets through at once, on every CPU, twice over.
pub(super) fn room(wish: &Wish, cpus: u32) -> u32 {
    let sight = (size_of::<Sight>() as u32 + 8).saturating_add(wish.snap.min(USUAL));
    let frames = u64::from(wish.rate / 10 + 1) * u64::from(cpus);
    let bytes = (4 * frames * u64::from(sight)).clamp(ROOM.0, ROOM.1);
    bytes.next_power_of_two() as u32
}

/// Puts a filter into an object.
pub(super) fn put_filter(bytes: &mut [u8], filter: &[Classic]) -> Result<(), XdpError> {
    let missing = || XdpError::Missing { what: "function", name: FILTER };
    let object = object::File::parse(&*bytes).map_err(|_| missing())?;
    let symbol = object.symbol_by_name(FILTER).ok_or_else(missing)?;
    let section = symbol.section_index().and_then(|index| object.section_by_index(index).ok()).ok_or_else(missing)?;
    let (start, _) = section.file_range().ok_or_else(missing)?;
    let (at, size) = ((start + symbol.address()) as usize, symbol.size() as usize);
    let place = bytes.get_mut(at..at + size).ok_or_else(missing)?;
    place.copy_from_slice(&translated(filter, size / 8)?);
    Ok(())
}

/// Whether the program can have this filter.
///
/// # Errors
/// [`XdpError::Filter`].
pub fn check_filter(filter: &[Classic]) -> Result<(), XdpError> {
    if filter.is_empty() { Ok(()) } else { put_filter(&mut OBJECT.to_vec(), filter) }
}

/// What the program tells, while it is loaded to capture.
pub struct Sources {
    events: RingBuf<MapData>,
    counts: PerCpuArray<MapData, [u64; WORDS]>,
}

impl Sources {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, XdpError> {
        let missing = |name| XdpError::Missing { what: "map", name };
        let fail = |cause| XdpError::Sources { cause };
        let mut take = |name| ebpf.take_map(name).ok_or_else(|| missing(name));
        let events = RingBuf::try_from(take("EVENTS")?).map_err(|error| fail(chain(&error)))?;
        let counts = PerCpuArray::try_from(take("CAPTURED")?).map_err(|error| fail(chain(&error)))?;
        Ok(Self { events, counts })
    }

    /// What was told since the last time; `false`: there is more, and so much at once is enough.
    pub fn read(&mut self, mut each: impl FnMut(&Sight, &[u8])) -> bool {
        for _ in 0..AT_ONCE {
            let Some(told) = self.events.next() else { return true };
            if let Some((sight, bytes)) = Sight::read(&told) {
                each(&sight, bytes);
            }
        }
        false
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        // Opened, it can be read.
        let Ok(all) = self.counts.get(&0, 0) else { return Counts::default() };
        let [accepted, limited, captured, lost] = std::array::from_fn(|n| all.iter().map(|state| state[n]).sum());
        Counts { accepted, limited, captured, lost }
    }
}
