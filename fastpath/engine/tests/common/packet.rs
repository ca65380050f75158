//! Packets as another implementation (etherparse) builds them: whole, large with work left undone, and what is to
//! become of those.

use super::mac;
use clearway_io::{Offload, Offloads};
use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, TcpHeader, UdpHeader};

/// What a packet's headers hold.
#[derive(Clone, Debug)]
pub struct Packet {
    pub v6: bool,
    /// TPID and TCI of each tag, outer first.
    pub tags: Vec<(u16, u16)>,
    /// IPv4: words of options. IPv6: a hop-by-hop header if not 0.
    pub options: u8,
    pub id: u16,
    /// None: UDP.
    pub tcp: Option<Tcp>,
}

#[derive(Clone, Debug)]
pub struct Tcp {
    pub seq: u32,
    /// FIN, PSH, CWR; ACK is always set.
    pub flags: [bool; 3],
    /// Words of options.
    pub options: u8,
}

pub const SRC: u8 = 1;
pub const DST: u8 = 2;

fn v4(n: u8) -> [u8; 4] {
    [192, 0, 2, n]
}

fn v6(n: u8) -> [u8; 16] {
    [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]
}

/// A part of a datagram: offset, whether more follow, identification.
pub type Fragment = (usize, bool, u32);

impl Packet {
    pub fn udp(v6: bool) -> Self {
        Self {
            v6,
            tags: Vec::new(),
            options: 0,
            id: 0xfffe,
            tcp: None,
        }
    }

    pub fn tcp(v6: bool) -> Self {
        let tcp = Tcp {
            seq: 0xffff_f000,
            flags: [true, true, true],
            options: 3,
        };
        Self {
            tcp: Some(tcp),
            ..Self::udp(v6)
        }
    }

    /// Bytes before the L4 header.
    pub fn l4(&self) -> usize {
        let ip = match self.v6 {
            false => 20 + 4 * usize::from(self.options),
            true => 40 + if self.options > 0 { 8 } else { 0 },
        };
        14 + 4 * self.tags.len() + ip
    }

    pub fn l4_header(&self) -> usize {
        self.tcp
            .as_ref()
            .map_or(8, |tcp| 20 + 4 * usize::from(tcp.options))
    }

    /// Offset of the checksum field in the L4 header.
    fn field(&self) -> usize {
        if self.tcp.is_some() { 16 } else { 6 }
    }

    /// The whole packet, finished.
    pub fn whole(&self, payload: &[u8]) -> Vec<u8> {
        self.around(None, &self.upper(payload))
    }

    /// The packet with the sum of its pseudo header where the checksum belongs.
    pub fn undone(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = self.whole(payload);
        let len = (bytes.len() - self.l4()) as u32;
        let protocol = if self.tcp.is_some() { 6 } else { 17 };
        let addresses = if self.v6 {
            [v6(SRC), v6(DST)].concat()
        } else {
            [v4(SRC), v4(DST)].concat()
        };
        let words = addresses
            .chunks(2)
            .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
        let mut sum = words.sum::<u32>() + protocol + len;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        let at = self.l4() + self.field();
        bytes[at..at + 2].copy_from_slice(&(sum as u16).to_be_bytes());
        bytes
    }

    /// What a sender says that leaves this undone.
    pub fn offload(&self, kind: Offloads, gso_size: u16) -> Offload {
        Offload {
            needs: kind | Offloads::CHECKSUM,
            start: self.l4() as u16,
            field: self.field() as u16,
            gso_size,
        }
    }

    pub fn tso(&self) -> Offloads {
        if self.v6 { Offloads::TSO6 } else { Offloads::TSO4 }
    }

    pub fn uso(&self) -> Offloads {
        if self.v6 { Offloads::USO6 } else { Offloads::USO4 }
    }

    /// The packets of `size` bytes of payload each that are to come of it.
    pub fn cut(&self, payload: &[u8], size: usize) -> Vec<Vec<u8>> {
        let parts: Vec<&[u8]> = match payload {
            [] => vec![&[]],
            _ => payload.chunks(size).collect(),
        };
        let last = parts.len() - 1;
        let part = |(i, part): (usize, &&[u8])| {
            let mut packet = self.clone();
            packet.id = self.id.wrapping_add(i as u16);
            if let Some(tcp) = &mut packet.tcp {
                tcp.seq = tcp.seq.wrapping_add((i * size) as u32);
                let [fin, psh, cwr] = &mut tcp.flags;
                *fin &= i == last;
                *psh &= i == last;
                *cwr &= i == 0;
            }
            packet.whole(part)
        };
        parts.iter().enumerate().map(part).collect()
    }

    /// The fragments of a datagram.
    pub fn fragments(&self, payload: &[u8], size: usize, id: u32) -> Vec<Vec<u8>> {
        let (upper, size) = (self.upper(payload), size & !7);
        if upper.len() <= size {
            let mut packet = self.around(None, &upper);
            if !self.v6 {
                // Whether it is cut or not, its sender allowed it.
                packet = self.around(Some((0, false, id)), &upper);
            }
            return vec![packet];
        }
        let parts = upper.chunks(size).enumerate();
        let more = |i: usize| (i + 1) * size < upper.len();
        parts
            .map(|(i, part)| self.around(Some((i * size, more(i), id)), part))
            .collect()
    }

    fn upper(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        match &self.tcp {
            Some(tcp) => {
                let mut header = TcpHeader::new(1234, 80, tcp.seq, 9000);
                header.acknowledgment_number = 77;
                header.ack = true;
                [header.fin, header.psh, header.cwr] = tcp.flags;
                let options: Vec<u8> = std::iter::repeat_n(1, 4 * usize::from(tcp.options)).collect();
                header.set_options_raw(&options).expect("options");
                let checksum = if self.v6 {
                    header.calc_checksum_ipv6_raw(v6(SRC), v6(DST), payload)
                } else {
                    header.calc_checksum_ipv4_raw(v4(SRC), v4(DST), payload)
                };
                header.checksum = checksum.expect("short enough");
                header.write(&mut bytes).expect("to memory");
            }
            None => {
                let mut header = UdpHeader {
                    source_port: 1000,
                    destination_port: 2000,
                    length: (8 + payload.len()) as u16,
                    checksum: 0,
                };
                let checksum = if self.v6 {
                    header.calc_checksum_ipv6_raw(v6(SRC), v6(DST), payload)
                } else {
                    header.calc_checksum_ipv4_raw(v4(SRC), v4(DST), payload)
                };
                header.checksum = checksum.expect("short enough");
                header.write(&mut bytes).expect("to memory");
            }
        }
        bytes.extend(payload);
        bytes
    }

    /// Ethernet, tags and IP around an upper layer or a part of one.
    fn around(&self, fragment: Option<Fragment>, upper: &[u8]) -> Vec<u8> {
        let mut bytes = [mac(DST).0, mac(SRC).0].concat();
        for (tpid, tci) in &self.tags {
            bytes.extend(tpid.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        let protocol = if self.tcp.is_some() {
            IpNumber::TCP
        } else {
            IpNumber::UDP
        };
        let offset = |bytes: usize| IpFragOffset::try_new((bytes / 8) as u16).expect("13 bits");
        if !self.v6 {
            bytes.extend([8, 0]);
            let options = 4 * usize::from(self.options);
            let mut header = Ipv4Header::new((options + upper.len()) as u16, 42, protocol, v4(SRC), v4(DST))
                .expect("length");
            header.options = [1u8; 40][..options].try_into().expect("a multiple of 4");
            header.total_len = (20 + options + upper.len()) as u16;
            header.identification = self.id;
            if let Some((at, more, _)) = fragment {
                header.dont_fragment = false;
                header.fragment_offset = offset(at);
                header.more_fragments = more;
            }
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut bytes).expect("to memory");
        } else {
            bytes.extend([0x86, 0xdd]);
            let mut extensions = Vec::new();
            let mut next = protocol;
            if let Some((at, more, id)) = fragment {
                let header = Ipv6FragmentHeader::new(protocol, offset(at), more, id);
                header.write(&mut extensions).expect("to memory");
                next = IpNumber::IPV6_FRAGMENTATION_HEADER;
            }
            if self.options > 0 {
                // Six bytes of PadN.
                let options = [next.0, 0, 1, 4, 0, 0, 0, 0];
                extensions.splice(0..0, options);
                next = IpNumber::IPV6_HEADER_HOP_BY_HOP;
            }
            let header = Ipv6Header {
                traffic_class: 0x28,
                payload_length: (extensions.len() + upper.len()) as u16,
                next_header: next,
                hop_limit: 42,
                source: v6(SRC),
                destination: v6(DST),
                ..Ipv6Header::default()
            };
            header.write(&mut bytes).expect("to memory");
            bytes.extend(extensions);
        }
        bytes.extend(upper);
        bytes
    }
}
