//! A port that is a capture file: what it reads arrives, what is sent is written.
//!
//! Reads pcapng and classic pcap, writes pcapng (draft-ietf-opsawg-pcapng) with nanosecond time stamps. For
//! reproducing what a capture shows and for looking at what an engine sends, not for speed: it is the one
//! kind of port whose calls do file I/O, and may so block for as long as the disk does.
//!
//! Guarantees: frames arrive in file order, each once per round; a frame for which there is no chunk waits.
//! Packets that the capture cut short, or that are not Ethernet, are counted invalid. A broken file or a full
//! disk faults the port.

use crate::timer::TimerFd;
use crate::{Fault, Frame, FrameBatch, PoolSet, Port, RegionId, RxCounts, TxCounts, Umem};
use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgReader, PcapNgWriter};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// What to read and write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PcapngConfig {
    /// The capture whose frames arrive.
    pub input: Option<PathBuf>,
    /// The capture that sent frames go to; it is overwritten.
    pub output: Option<PathBuf>,
    /// Whether to start over at the end of the input.
    pub repeat: bool,
    /// Frames a second; none: as fast as they are taken.
    pub rate: Option<NonZeroU64>,
}

/// Why a capture can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PcapngError {
    /// A file can't be opened or made, or no timer.
    #[error("cannot {what} {}: {source}", .path.display())]
    File {
        /// The step that failed.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not a capture.
    #[error("{} is no capture in pcapng or pcap format: {source}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: pcap_file::PcapError,
    },
    /// The capture has no Ethernet frames.
    #[error("{} holds packets of link type {found}, not Ethernet: such a capture can't be replayed here", .path.display())]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The link type, as numbered by tcpdump.org/linktypes.html.
        found: u32,
    },
}

enum Reader {
    Pcap(PcapReader<File>),
    Pcapng(PcapNgReader<File>),
}

/// What the next record of a capture is.
enum Record {
    Packet,
    Unusable,
    Other,
    End,
}

impl Reader {
    fn open(path: &Path) -> Result<Self, PcapngError> {
        let fail = |source| PcapngError::File {
            what: "read",
            path: path.to_owned(),
            source,
        };
        let format = |source| PcapngError::Format {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(fail)?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map_err(fail)?;
        file.rewind().map_err(fail)?;
        // The type of a section header block: the same in either byte order.
        if magic == [0x0a, 0x0d, 0x0d, 0x0a] {
            return PcapNgReader::new(file).map(Self::Pcapng).map_err(format);
        }
        let reader = PcapReader::new(file).map_err(format)?;
        match reader.header().datalink {
            DataLink::ETHERNET => Ok(Self::Pcap(reader)),
            other => Err(PcapngError::LinkType {
                path: path.to_owned(),
                found: other.into(),
            }),
        }
    }

    /// Reads the next record; a packet's bytes go to `bytes`.
    fn next(&mut self, bytes: &mut Vec<u8>) -> Result<Record, pcap_file::PcapError> {
        let mut packet = |data: &[u8], original: u32| {
            bytes.clear();
            bytes.extend_from_slice(data);
            if data.len() == original as usize {
                Record::Packet
            } else {
                Record::Unusable
            }
        };
        let reader = match self {
            Self::Pcap(reader) => {
                return Ok(match reader.next_packet().transpose()? {
                    None => Record::End,
                    Some(record) => packet(&record.data, record.orig_len),
                });
            }
            Self::Pcapng(reader) => reader,
        };
        let (interface, record) = match reader.next_block().transpose()? {
            None => return Ok(Record::End),
            Some(Block::EnhancedPacket(block)) => (
                block.interface_id as usize,
                packet(&block.data, block.original_len),
            ),
            Some(Block::SimplePacket(block)) => (0, packet(&block.data, block.original_len)),
            Some(_) => return Ok(Record::Other),
        };
        let ethernet = reader
            .interfaces()
            .get(interface)
            .is_some_and(|i| i.linktype == DataLink::ETHERNET);
        Ok(if ethernet { record } else { Record::Unusable })
    }
}

struct Input {
    path: PathBuf,
    reader: Reader,
    repeat: bool,
    /// Packets of this round, so that a capture without one ends instead of being read for ever.
    round: u64,
    /// The next frame to arrive, if `loaded`.
    next: Vec<u8>,
    loaded: bool,
    ended: bool,
}

struct Pace {
    interval: Duration,
    due: Instant,
}

/// See the module's description.
pub struct PcapngPort {
    region: RegionId,
    input: Option<Input>,
    output: Option<(PathBuf, PcapNgWriter<BufWriter<File>>)>,
    unflushed: bool,
    pace: Option<Pace>,
    timer: TimerFd,
    invalid: u64,
    fault: Option<Fault>,
}

impl PcapngPort {
    /// The region of the UMEM that its frames arrive in.
    #[must_use]
    pub fn region(&self) -> RegionId {
        self.region
    }

    /// Opens the files. Frames arrive in chunks of `umem`.
    ///
    /// # Errors
    /// [`PcapngError`].
    pub fn open(config: &PcapngConfig, umem: &Umem) -> Result<Self, PcapngError> {
        let input = config.input.as_ref().map(|path| {
            let reader = Reader::open(path)?;
            let (path, repeat) = (path.clone(), config.repeat);
            Ok(Input {
                path,
                reader,
                repeat,
                round: 0,
                next: Vec::new(),
                loaded: false,
                ended: false,
            })
        });
        let output = config
            .output
            .as_ref()
            .map(|path| Ok((path.clone(), create(path)?)));
        let timer = TimerFd::new().map_err(|source| PcapngError::File {
            what: "make a timer for",
            path: config
                .input
                .clone()
                .or_else(|| config.output.clone())
                .unwrap_or_default(),
            source,
        })?;
        let pace = config.rate.map(|rate| Pace {
            interval: Duration::from_secs(1) / clamp(rate),
            due: Instant::now(),
        });
        Ok(Self {
            region: umem.id(),
            input: input.transpose()?,
            output: output.transpose()?,
            unflushed: false,
            pace,
            timer,
            invalid: 0,
            fault: None,
        })
    }

    /// Whether all frames of the input have arrived.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.input.as_ref().is_none_or(|input| input.ended)
    }

    /// Makes the next frame of the input ready. False at its end.
    fn load(&mut self) -> bool {
        let Some(input) = &mut self.input else {
            return false;
        };
        while !input.loaded && !input.ended && self.fault.is_none() {
            match input.reader.next(&mut input.next) {
                Ok(Record::Packet) => {
                    input.loaded = true;
                    input.round += 1;
                }
                Ok(Record::Unusable) => self.invalid += 1,
                Ok(Record::Other) => {}
                Ok(Record::End) if input.repeat && input.round > 0 => match Reader::open(&input.path) {
                    Ok(reader) => {
                        input.reader = reader;
                        input.round = 0;
                    }
                    Err(error) => self.fault = Some(Fault(error.to_string())),
                },
                Ok(Record::End) => input.ended = true,
                Err(error) => {
                    self.fault = Some(Fault(format!(
                        "cannot read on in {}: {error}",
                        input.path.display()
                    )));
                }
            }
        }
        input.loaded && self.fault.is_none()
    }

    /// Frames that may arrive now.
    fn due(&self) -> usize {
        match &self.pace {
            None => usize::MAX,
            Some(pace) => {
                let late = Instant::now().saturating_duration_since(pace.due);
                if Instant::now() < pace.due {
                    return 0;
                }
                1 + usize::try_from(late.as_nanos() / pace.interval.as_nanos().max(1)).unwrap_or(usize::MAX)
            }
        }
    }

    fn write(&mut self, frame: &Frame, now: Duration) -> Result<(), String> {
        let Some((path, writer)) = &mut self.output else {
            return Ok(());
        };
        let data: Cow<'_, [u8]> = if frame.is_linear() {
            frame.bytes().into()
        } else {
            let mut data = vec![0; frame.len() as usize];
            frame.reader().read(&mut data);
            data.into()
        };
        let original_len = frame.len();
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: now,
            original_len,
            data,
            options: Vec::new(),
        };
        let written = writer.write_block(&block.into_block());
        written
            .map(|_| self.unflushed = true)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

fn clamp(rate: NonZeroU64) -> u32 {
    u32::try_from(rate.get()).unwrap_or(u32::MAX)
}

fn create(path: &Path) -> Result<PcapNgWriter<BufWriter<File>>, PcapngError> {
    let fail = |source| PcapngError::File {
        what: "write",
        path: path.to_owned(),
        source,
    };
    let format = |source| PcapngError::Format {
        path: path.to_owned(),
        source,
    };
    let mut writer = PcapNgWriter::new(BufWriter::new(File::create(path).map_err(fail)?)).map_err(format)?;
    // if_tsresol 9: time stamps count nanoseconds.
    let options = vec![InterfaceDescriptionOption::IfTsResol(9)];
    let interface = InterfaceDescriptionBlock {
        linktype: DataLink::ETHERNET,
        snaplen: 0,
        options,
    };
    writer.write_block(&interface.into_block()).map_err(format)?;
    writer.get_mut().flush().map_err(fail)?;
    Ok(writer)
}

impl Port for PcapngPort {
    fn rx_batch(&mut self, pools: &mut PoolSet, batch: &mut FrameBatch) -> usize {
        let before = batch.len();
        let most = batch.remaining_capacity().min(self.due());
        while batch.len() - before < most && self.load() {
            let Some(input) = &mut self.input else { break };
            let Some(frame) = pools.frame_from(self.region, &input.next) else {
                break;
            };
            input.loaded = false;
            batch.push(frame);
        }
        let arrived = batch.len() - before;
        if let Some(pace) = &mut self.pace {
            pace.due += pace.interval * arrived as u32;
        }
        arrived
    }

    fn tx_batch(&mut self, pools: &mut PoolSet, frames: &mut Vec<Frame>) -> TxCounts {
        let mut counts = TxCounts::default();
        // Before 1970 there was no pcapng.
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let mut taken = 0;
        for slot in frames.iter_mut() {
            if self.fault.is_some() {
                break;
            }
            if let Err(why) = self.write(slot, now) {
                self.fault = Some(Fault(why));
                break;
            }
            counts.packets += 1;
            counts.bytes += u64::from(slot.len());
            taken += 1;
            pools.free(std::mem::take(slot));
        }
        frames.drain(..taken);
        counts
    }

    /// Makes what was sent visible to readers of the file.
    fn reclaim(&mut self, _: &mut PoolSet) {
        if std::mem::take(&mut self.unflushed)
            && let Some((path, writer)) = &mut self.output
            && let Err(error) = writer.get_mut().flush()
        {
            self.fault
                .get_or_insert_with(|| Fault(format!("cannot write {}: {error}", path.display())));
        }
    }

    fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    fn wait_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.timer.as_fd())
    }

    fn arm(&mut self) -> bool {
        if !self.load() {
            self.timer.set(None);
            return self.fault.is_some();
        }
        if self.due() > 0 {
            return true;
        }
        let delay = self
            .pace
            .as_ref()
            .map(|pace| pace.due.saturating_duration_since(Instant::now()));
        self.timer.set(delay);
        false
    }

    fn rx_lost(&mut self) -> RxCounts {
        RxCounts {
            missed: 0,
            invalid: self.invalid,
        }
    }
}
