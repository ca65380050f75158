//! Links and their VFs by rtnetlink.
//!
//! Of an answer only the attributes that are wanted are decoded, and one that can't be is passed over: each kernel release
//! adds some, and a single one that our decoder does not know must not cost the whole inventory.

use std::collections::BTreeMap;
use std::io;

use clearway_config::{TagProtocol, VfLinkState};
use clearway_wire::MacAddr;
use netlink_packet_core::{
    ErrorBuffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator, Parseable, ParseableParametrized,
};
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage, LinkVfInfo, Prop, VfInfo, VfInfoLinkState,
    VfInfoMac, VfInfoRate, VfInfoSpoofCheck, VfInfoTrust, VfLinkState as KernelState, VfVlan, VfVlanInfo,
    VlanProtocol,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use super::{Link, LinkChange, Refusal, VfAdmin, VfSetting};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
/// The tables changed while the kernel listed them.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// The error carries attributes, among them the kernel's own words.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// `NLMSGERR_ATTR_MSG`.
const ERROR_TEXT: u16 = 1;
const HEADER_LEN: usize = 16;
/// `struct ifinfomsg`.
const IFINFO_LEN: usize = 16;
/// `IFLA_*`: those that are decoded.
const WANTED: [u16; 11] = [1, 3, 4, 10, 22, 36, 38, 52, 56, 57, 33];
const VFINFO_LIST: u16 = 22;
/// `IFLA_VF_SPOOFCHK`, `IFLA_VF_TRUST`.
const VF_SPOOFCHK: u16 = 4;
const VF_TRUST: u16 = 9;
/// A listing that is interrupted this often is taken as it is.
const DUMP_ATTEMPTS: usize = 8;
const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;

/// A blocking socket for requests.
pub(super) struct Rtnl {
    socket: Socket,
    sequence: u32,
}

impl Rtnl {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    pub(super) fn links(&mut self) -> Result<Vec<Link>, Refusal> {
        let mut message = LinkMessage::default();
        let mask = vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats];
        message.attributes.push(LinkAttribute::ExtMask(mask));
        let message = RouteNetlinkMessage::GetLink(message);
        for attempt in 1.. {
            let mut links = Vec::new();
            let interrupted = self.exchange(message.clone(), NLM_F_DUMP, |kind, body| {
                if kind == RTM_NEWLINK {
                    links.extend(parse_link(body));
                }
            })?;
            if !interrupted || attempt == DUMP_ATTEMPTS {
                links.sort_by_key(|link| link.ifindex);
                return Ok(links);
            }
        }
        unreachable!("the last attempt returns")
    }

    pub(super) fn change_link(&mut self, ifindex: u32, change: &LinkChange) -> Result<(), Refusal> {
        let mut message = link_message(ifindex);
        let altname = |name: &String| LinkAttribute::PropList(vec![Prop::AltIfName(name.clone())]);
        let (message, flags) = match change {
            LinkChange::Up(up) => {
                message.header.change_mask = LinkFlags::Up;
                if *up {
                    message.header.flags = LinkFlags::Up;
                }
                (RouteNetlinkMessage::SetLink(message), 0)
            }
            LinkChange::Name(name) => {
                message.attributes.push(LinkAttribute::IfName(name.clone()));
                (RouteNetlinkMessage::SetLink(message), 0)
            }
            LinkChange::Mac(mac) => {
                message.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
                (RouteNetlinkMessage::SetLink(message), 0)
            }
            LinkChange::Mtu(mtu) => {
                message.attributes.push(LinkAttribute::Mtu(*mtu));
                (RouteNetlinkMessage::SetLink(message), 0)
            }
            LinkChange::AddAltname(name) => {
                message.attributes.push(altname(name));
                let flags = NLM_F_CREATE | NLM_F_EXCL;
                (RouteNetlinkMessage::NewLinkProp(message), flags)
            }
            LinkChange::RemoveAltname(name) => {
                message.attributes.push(altname(name));
                (RouteNetlinkMessage::DelLinkProp(message), 0)
            }
        };
        self.exchange(message, flags | NLM_F_ACK, |_, _| ()).map(drop)
    }

    pub(super) fn set_vf(&mut self, ifindex: u32, vf: u16, setting: &VfSetting) -> Result<(), Refusal> {
        let mut message = link_message(ifindex);
        let info = LinkVfInfo(vec![encode(vf, setting)]);
        message.attributes.push(LinkAttribute::VfInfoList(vec![info]));
        self.exchange(RouteNetlinkMessage::SetLink(message), NLM_F_ACK, |_, _| ())
            .map(drop)
    }

    /// Sends a request and takes what is answered, up to the acknowledgement or the end of the list. True: a list changed
    /// while it was made.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut take: impl FnMut(u16, &[u8]),
    ) -> Result<bool, Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags | NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut interrupted = false;
        loop {
            let datagram = match self.socket.recv_from_full() {
                Ok((datagram, _)) => datagram,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = &datagram[..];
            while let Ok(answer) = NetlinkBuffer::new_checked(rest) {
                // At least the header's: new_checked has looked.
                let length = answer.length() as usize;
                let body = &rest[HEADER_LEN..length];
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                // What is left of an exchange that was given up.
                if answer.sequence_number() != self.sequence {
                    continue;
                }
                interrupted |= answer.flags() & NLM_F_DUMP_INTR != 0;
                match answer.message_type() {
                    NLMSG_DONE => return Ok(interrupted),
                    NLMSG_ERROR => return refusal(answer.flags(), body).map_or(Ok(interrupted), Err),
                    kind => take(kind, body),
                }
            }
        }
    }
}

fn link_message(ifindex: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message
}

/// `None`: it is an acknowledgement.
fn refusal(flags: u16, body: &[u8]) -> Option<Refusal> {
    let Ok(error) = ErrorBuffer::new_checked(body) else {
        return Some(Errno::EBADMSG.into());
    };
    let errno = Errno::from_raw(error.code()?.get().wrapping_neg());
    // Behind the errno comes the header of our request (without its body: NETLINK_CAP_ACK), then attributes.
    let attributes = body.get(4 + HEADER_LEN..).filter(|_| flags & NLM_F_ACK_TLVS != 0);
    let mut attributes = NlasIterator::new(attributes.unwrap_or_default()).map_while(Result::ok);
    let explanation = attributes.find(|nla| nla.kind() == ERROR_TEXT).map(|nla| {
        String::from_utf8_lossy(nla.value())
            .trim_end_matches('\0')
            .to_owned()
    });
    Some(Refusal { errno, explanation })
}

fn encode(vf: u16, setting: &VfSetting) -> VfInfo {
    let vf = u32::from(vf);
    match setting {
        VfSetting::Mac(mac) => VfInfo::Mac(VfInfoMac::new(vf, &mac.0)),
        VfSetting::Vlan { vlan, qos, proto } => {
            let proto = match proto {
                TagProtocol::Dot1q => VlanProtocol::Ieee8021Q,
                TagProtocol::Dot1ad => VlanProtocol::Ieee8021Ad,
            };
            let info = VfVlanInfo::new(vf, u32::from(*vlan), u32::from(*qos), proto);
            VfInfo::VlanList(vec![VfVlan::Info(info)])
        }
        VfSetting::Spoofchk(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(vf, *on)),
        VfSetting::Trust(on) => VfInfo::Trust(VfInfoTrust::new(vf, *on)),
        VfSetting::Rate { min, max } => VfInfo::Rate(VfInfoRate::new(vf, *min, *max)),
        VfSetting::LinkState(state) => {
            let state = match state {
                VfLinkState::Auto => KernelState::Auto,
                VfLinkState::Enable => KernelState::Enable,
                VfLinkState::Disable => KernelState::Disable,
            };
            VfInfo::LinkState(VfInfoLinkState::new(vf, state))
        }
    }
}

/// `None` for one without a name, and for a bridge's view of its port.
fn parse_link(body: &[u8]) -> Option<Link> {
    let header: [u8; IFINFO_LEN] = body.get(..IFINFO_LEN)?.try_into().ok()?;
    if header[0] != 0 {
        return None;
    }
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (ifindex, flags) = (word(4), word(8));
    let ethernet = u16::from_ne_bytes([header[2], header[3]]) == ARPHRD_ETHER;
    let mut link = Link {
        ifindex,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        ..Link::default()
    };
    let (mut bus, mut device) = (None, None);
    let attributes = NlasIterator::new(&body[IFINFO_LEN..]).map_while(Result::ok);
    for nla in attributes.filter(|nla| WANTED.contains(&nla.kind())) {
        if nla.kind() == VFINFO_LIST {
            link.vfs = parse_vfs(nla.value());
            continue;
        }
        let Ok(attribute) = LinkAttribute::parse_with_param(&nla, AddressFamily::Unspec) else {
            continue;
        };
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => {
                link.mac = <[u8; 6]>::try_from(bytes).ok().filter(|_| ethernet).map(MacAddr);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::PhysPortName(name) => link.port_name = Some(name),
            LinkAttribute::PhysSwitchId(id) => link.switch = Some(id.id[..id.len].to_vec()),
            LinkAttribute::PropList(all) => {
                link.altnames
                    .extend(all.into_iter().filter_map(|prop| match prop {
                        Prop::AltIfName(name) => Some(name),
                        _ => None,
                    }));
            }
            LinkAttribute::ParentDevName(name) => device = Some(name),
            LinkAttribute::ParentDevBusName(name) => bus = Some(name),
            _ => {}
        }
    }
    link.pci = device
        .filter(|_| bus.as_deref() == Some("pci"))
        .and_then(|name| name.parse().ok());
    (!link.name.is_empty()).then_some(link)
}

fn parse_vfs(list: &[u8]) -> BTreeMap<u16, VfAdmin> {
    let list = NlasIterator::new(list).map_while(Result::ok);
    list.filter_map(|vf| parse_vf(vf.value())).collect()
}

fn parse_vf(info: &[u8]) -> Option<(u16, VfAdmin)> {
    let mut number = None;
    let mut admin = VfAdmin::default();
    for nla in NlasIterator::new(info).map_while(Result::ok) {
        let Ok(info) = VfInfo::parse(&nla) else { continue };
        match info {
            VfInfo::Mac(VfInfoMac { vf_id, mac, .. }) => {
                number = u16::try_from(vf_id).ok();
                admin.mac = MacAddr([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]]);
            }
            // Of several VLANs, which no driver has, the first.
            VfInfo::VlanList(vlans) => {
                if let Some(VfVlan::Info(info)) = vlans.into_iter().next() {
                    admin.vlan = u16::try_from(info.vlan_id).unwrap_or(0);
                    admin.qos = u8::try_from(info.qos).unwrap_or(0);
                    admin.vlan_proto = match info.protocol {
                        VlanProtocol::Ieee8021Ad => TagProtocol::Dot1ad,
                        _ => TagProtocol::Dot1q,
                    };
                }
            }
            VfInfo::Rate(VfInfoRate {
                min_tx_rate,
                max_tx_rate,
                ..
            }) => {
                admin.min_tx_rate = min_tx_rate;
                admin.max_tx_rate = max_tx_rate;
            }
            VfInfo::LinkState(VfInfoLinkState { state, .. }) => {
                admin.link_state = match state {
                    KernelState::Enable => VfLinkState::Enable,
                    KernelState::Disable => VfLinkState::Disable,
                    _ => VfLinkState::Auto,
                };
            }
            VfInfo::SpoofCheck(_) if nla.kind() == VF_SPOOFCHK => admin.spoofchk = said(&nla),
            VfInfo::Trust(_) if nla.kind() == VF_TRUST => admin.trust = said(&nla),
            _ => {}
        }
    }
    Some((number?, admin))
}

/// On or off; -1, which the decoder takes for off, is what the kernel writes where the driver doesn't say.
fn said(nla: &NlaBuffer<&[u8]>) -> Option<bool> {
    let setting: [u8; 4] = nla.value().get(4..8)?.try_into().ok()?;
    match u32::from_ne_bytes(setting) {
        u32::MAX => None,
        setting => Some(setting != 0),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use netlink_packet_core::{Emitable, Nla};
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn bytes<T: Nla>(nla: &T) -> Vec<u8> {
        let mut bytes = vec![0; nla.buffer_len()];
        nla.emit(&mut bytes);
        bytes
    }

    fn list(vfs: Vec<LinkVfInfo>) -> Vec<u8> {
        let all: Vec<_> = vfs.iter().map(bytes).collect();
        all.concat()
    }

    #[test]
    fn what_is_set_is_what_is_read() {
        let settings = [
            VfSetting::Mac(MacAddr([2, 0, 0, 0, 0, 1])),
            VfSetting::Vlan {
                vlan: 100,
                qos: 3,
                proto: TagProtocol::Dot1ad,
            },
            VfSetting::Spoofchk(true),
            VfSetting::Trust(false),
            VfSetting::Rate { min: 10, max: 100 },
            VfSetting::LinkState(VfLinkState::Disable),
        ];
        let info = LinkVfInfo(settings.iter().map(|setting| encode(9, setting)).collect());
        let vfs = parse_vfs(&list(vec![info]));
        let admin = vfs[&9];
        assert_eq!(vfs.len(), 1);
        for setting in settings {
            assert_eq!(setting.as_it_is(&admin), Some(setting));
        }
    }

    #[test]
    fn what_the_driver_does_not_say_is_not_off() {
        let mac = encode(0, &VfSetting::Mac(MacAddr::ZERO));
        let on = encode(0, &VfSetting::Trust(true));
        let mut list = list(vec![LinkVfInfo(vec![mac, on])]);
        assert_eq!(parse_vfs(&list)[&0].trust, Some(true));
        // The setting is the last word: -1, as rtnetlink presets it.
        let end = list.len();
        list[end - 4..].fill(0xff);
        assert_eq!(parse_vfs(&list)[&0].trust, None);
        assert_eq!(parse_vfs(&list)[&0].spoofchk, None);
    }

    #[test]
    fn no_answer_makes_it_panic() {
        let vlan = VfSetting::Vlan {
            vlan: 5,
            qos: 0,
            proto: TagProtocol::Dot1q,
        };
        let infos = [VfSetting::Mac(MacAddr::ZERO), vlan, VfSetting::Trust(true)];
        let info = LinkVfInfo(infos.iter().map(|setting| encode(3, setting)).collect());
        let mut message = link_message(7);
        message.attributes = vec![
            LinkAttribute::IfName("eth1".into()),
            LinkAttribute::VfInfoList(vec![info]),
            LinkAttribute::ParentDevName("0000:03:00.0".into()),
            LinkAttribute::ParentDevBusName("pci".into()),
        ];
        let mut whole = vec![0; message.buffer_len()];
        message.emit(&mut whole);
        let link = parse_link(&whole).unwrap();
        assert_eq!(
            (link.pci.unwrap().to_string(), link.vfs[&3].vlan),
            ("0000:03:00.0".into(), 5)
        );
        for end in 0..whole.len() {
            let _ = parse_link(&whole[..end]);
            for byte in [0, 1, 0x7f, 0xff] {
                let mut broken = whole.clone();
                broken[end] = byte;
                let _ = parse_link(&broken);
                let _ = refusal(NLM_F_ACK_TLVS, &broken[..end]);
            }
        }
    }

    /// Needs root, as `make test` has.
    #[test]
    fn links_are_changed_and_refusals_told() {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root: run it as `make test` does");
        let ip = Command::new("ip")
            .args("link add name near type veth peer name far".split(' '))
            .status();
        assert!(ip.unwrap().success());
        let mut rtnl = Rtnl::open().unwrap();
        let find = |rtnl: &mut Rtnl, name: &str| {
            let links = rtnl.links().unwrap();
            links.into_iter().find(|link| link.name == name)
        };
        let before = find(&mut rtnl, "near").unwrap();
        let mac = MacAddr([2, 0, 0, 0, 7, 7]);
        for change in [
            LinkChange::Up(false),
            LinkChange::Name("net0".into()),
            LinkChange::AddAltname("first".into()),
            LinkChange::AddAltname("second".into()),
            LinkChange::RemoveAltname("first".into()),
            LinkChange::Mac(mac),
            LinkChange::Mtu(1400),
            LinkChange::Up(true),
        ] {
            rtnl.change_link(before.ifindex, &change)
                .unwrap_or_else(|refusal| panic!("{change}: {refusal}"));
        }
        let after = find(&mut rtnl, "net0").unwrap();
        assert_eq!((after.mac, after.mtu, after.up), (Some(mac), 1400, true));
        assert_eq!(after.altnames, ["second"]);
        let refused = |done: Result<(), Refusal>| done.unwrap_err().errno;
        let name = LinkChange::Name("far".into());
        assert_eq!(refused(rtnl.change_link(before.ifindex, &name)), Errno::EEXIST);
        assert_eq!(refused(rtnl.change_link(999, &name)), Errno::ENODEV);
        let done = rtnl.change_link(before.ifindex, &LinkChange::Mtu(1));
        let refusal = done.unwrap_err();
        assert_eq!(refusal.errno, Errno::EINVAL);
        assert!(
            refusal.explanation.is_some_and(|text| text.contains("mtu")),
            "the kernel's own words"
        );
        // A veth has no VFs.
        let vf = VfSetting::Trust(true);
        assert_eq!(refused(rtnl.set_vf(before.ifindex, 0, &vf)), Errno::EOPNOTSUPP);
    }
}
