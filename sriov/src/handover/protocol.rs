//! The messages: one request a packet, one answer a packet, text (docs/af-xdp-handover.md has the table).
//!
//! Guarantees: a request that this module returns is complete and within its bounds; nothing here touches a socket.

/// The version of the exchange that we speak.
pub const VERSION: &str = "0.1";

/// The longest request that is read. DPDK's client sends at most 63 bytes.
pub const MAX_REQUEST: usize = 256;

/// The longest name of a netdev: IFNAMSIZ - 1.
const MAX_DEVICE: usize = 15;

/// The longest name of a host (hostname(7)).
const MAX_HOST: usize = 253;

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// `/connect,<host>`: the pod introduces itself. The name is shown in the log and decides nothing.
    Connect {
        /// What it calls itself.
        host: &'a str,
    },
    /// `/version`
    Version,
    /// `/xsk_map_fd,<device>`
    XskMap {
        /// The netdev, as the pod knows it.
        device: &'a str,
    },
    /// `/config_busy_poll,<timeout>,<budget>`, with the socket as a descriptor.
    BusyPoll(BusyPoll),
    /// `/fin`
    Fin,
}

/// How a socket is to be polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyPoll {
    /// SO_BUSY_POLL, microseconds.
    pub micros: u32,
    /// SO_BUSY_POLL_BUDGET: packets that one pass may process.
    pub budget: u32,
}

/// What a client is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The pod is known.
    HostOk,
    /// It is not.
    HostNak,
    /// [`VERSION`]
    Version,
    /// The map's descriptor comes with this message.
    FdAck,
    /// There is none for this pod.
    FdNak,
    /// The socket is set up.
    BusyPollAck,
    /// It is not.
    BusyPollNak,
    /// The connection ends.
    FinAck,
    /// No request of this protocol.
    Nak,
    /// We failed; the request may be in order.
    Error,
}

impl Reply {
    /// The bytes on the socket.
    pub fn text(self) -> &'static str {
        match self {
            Self::HostOk => "/host_ok",
            Self::HostNak => "/host_nak",
            Self::Version => VERSION,
            Self::FdAck => "/fd_ack",
            Self::FdNak => "/fd_nak",
            Self::BusyPollAck => "/config_busy_poll_ack",
            Self::BusyPollNak => "/config_busy_poll_nak",
            Self::FinAck => "/fin_ack",
            Self::Nak => "/nak",
            Self::Error => "/error",
        }
    }
}

impl<'a> Request<'a> {
    /// The request in a packet. A known one whose arguments are wrong gets its own refusal, which every client
    /// waits for; all else [`Reply::Nak`]. Zeros at the end are cut: some clients send their string's.
    pub fn parse(packet: &'a [u8]) -> Result<Self, Reply> {
        let end = packet
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        let text = std::str::from_utf8(&packet[..end]).map_err(|_| Reply::Nak)?;
        let (verb, arguments) = match text.split_once(',') {
            Some((verb, arguments)) => (verb, Some(arguments)),
            None => (text, None),
        };
        match (verb, arguments) {
            ("/connect", host) => match host {
                Some(host) if is_name(host, MAX_HOST) => Ok(Self::Connect { host }),
                _ => Err(Reply::HostNak),
            },
            ("/version", None) => Ok(Self::Version),
            ("/xsk_map_fd", device) => match device {
                Some(device) if is_device(device) => Ok(Self::XskMap { device }),
                _ => Err(Reply::FdNak),
            },
            ("/config_busy_poll", numbers) => numbers
                .and_then(|numbers| numbers.split_once(','))
                .and_then(|(micros, budget)| {
                    Some(BusyPoll {
                        micros: number(micros)?,
                        budget: number(budget)?,
                    })
                })
                .map(Self::BusyPoll)
                .ok_or(Reply::BusyPollNak),
            ("/fin", None) => Ok(Self::Fin),
            _ => Err(Reply::Nak),
        }
    }
}

/// One word that can be shown in a log.
fn is_name(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// A name that the kernel would take for a netdev (dev_valid_name).
fn is_device(name: &str) -> bool {
    is_name(name, MAX_DEVICE) && name != "." && name != ".." && !name.contains(['/', ':'])
}

/// Digits alone: no sign, no blank.
fn number(text: &str) -> Option<u32> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request<'_>, Reply> {
        Request::parse(text.as_bytes())
    }

    #[test]
    fn every_request() {
        assert_eq!(parse("/connect,web-0"), Ok(Request::Connect { host: "web-0" }));
        assert_eq!(parse("/version"), Ok(Request::Version));
        assert_eq!(parse("/xsk_map_fd,net1"), Ok(Request::XskMap { device: "net1" }));
        let (micros, budget) = (20, 64);
        assert_eq!(
            parse("/config_busy_poll,20,64"),
            Ok(Request::BusyPoll(BusyPoll { micros, budget }))
        );
        assert_eq!(parse("/fin"), Ok(Request::Fin));
    }

    #[test]
    fn a_string_s_zero_is_no_part_of_the_request() {
        assert_eq!(parse("/fin\0"), Ok(Request::Fin));
        assert_eq!(
            parse("/xsk_map_fd,net1\0\0\0"),
            Ok(Request::XskMap { device: "net1" })
        );
        assert_eq!(parse("/fin\0/fin"), Err(Reply::Nak));
        assert_eq!(parse("/xsk_map_fd,ne\0t1"), Err(Reply::FdNak));
    }

    #[test]
    fn wrong_arguments_get_the_request_s_own_refusal() {
        let long_host = format!("/connect,{}", "a".repeat(254));
        for text in [
            "/connect",
            "/connect,",
            "/connect,a,b",
            "/connect,a b",
            "/connect,\u{e9}",
            &long_host,
        ] {
            assert_eq!(parse(text), Err(Reply::HostNak), "{text}");
        }
        for text in [
            "/xsk_map_fd",
            "/xsk_map_fd,",
            "/xsk_map_fd,.",
            "/xsk_map_fd,..",
            "/xsk_map_fd,../x",
            "/xsk_map_fd,a:b",
            "/xsk_map_fd,a b",
            "/xsk_map_fd,net1,net2",
            "/xsk_map_fd,net1\n",
            "/xsk_map_fd,sixteen-letters-",
        ] {
            assert_eq!(parse(text), Err(Reply::FdNak), "{text}");
        }
        for text in [
            "/config_busy_poll",
            "/config_busy_poll,",
            "/config_busy_poll,20",
            "/config_busy_poll,,64",
            "/config_busy_poll,20,",
            "/config_busy_poll,-1,64",
            "/config_busy_poll,+1,64",
            "/config_busy_poll,20, 64",
            "/config_busy_poll,20,64,1",
            "/config_busy_poll,4294967296,64",
            "/config_busy_poll,x,y",
        ] {
            assert_eq!(parse(text), Err(Reply::BusyPollNak), "{text}");
        }
    }

    #[test]
    fn all_else_is_no_request() {
        for text in [
            "",
            "\0",
            "/",
            ",",
            "/nak",
            "/host_ok",
            "connect,a",
            "/Connect,a",
            " /fin",
            "/fin ",
            "/fin,1",
            "/version,1",
            "/versions",
            "/xsk_socket",
            "/xsk_map_fdx,net1",
        ] {
            assert_eq!(parse(text), Err(Reply::Nak), "{text}");
        }
        assert_eq!(Request::parse(b"/fin\xff"), Err(Reply::Nak));
        assert_eq!(Request::parse(&[0xff; MAX_REQUEST]), Err(Reply::Nak));
        assert_eq!(Request::parse(&[0; MAX_REQUEST]), Err(Reply::Nak));
    }

    #[test]
    fn every_answer() {
        let all = [
            (Reply::HostOk, "/host_ok"),
            (Reply::HostNak, "/host_nak"),
            (Reply::Version, "0.1"),
            (Reply::FdAck, "/fd_ack"),
            (Reply::FdNak, "/fd_nak"),
            (Reply::BusyPollAck, "/config_busy_poll_ack"),
            (Reply::BusyPollNak, "/config_busy_poll_nak"),
            (Reply::FinAck, "/fin_ack"),
            (Reply::Nak, "/nak"),
            (Reply::Error, "/error"),
        ];
        for (reply, text) in all {
            assert_eq!(reply.text(), text);
        }
    }
}
