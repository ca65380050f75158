//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE` (CNI's CONVENTIONS.md, "CNI_ARGS").

use std::net::IpAddr;

use clearway_config::attach::Pod;
use clearway_wire::MacAddr;

use crate::conf::cut;
use crate::environment::EnvironmentError;

/// What we take from `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// Who the container is, where `K8S_POD_NAMESPACE` and `K8S_POD_NAME` both say so.
    pub pod: Option<Pod>,
    /// `MAC`
    pub mac: Option<MacAddr>,
    /// `IP`: addresses, with or without their prefix's length, separated by commas.
    pub ips: Vec<IpAddr>,
}

impl Args {
    /// Reads the variable's value. Keys are told apart by their letters alone, as `mac` and `MAC` mean the same in the
    /// wild. A key that is not ours is an error, unless `IgnoreUnknown` is true, as it is for every Kubernetes runtime.
    pub fn parse(text: &str) -> Result<Self, EnvironmentError> {
        let mut args = Self::default();
        let (mut namespace, mut name, mut uid) = (None, None, None);
        let (mut ignore, mut unknown) = (false, None);
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| wrong(pair, "it has no `=`"))?;
            match key.to_ascii_uppercase().as_str() {
                "IGNOREUNKNOWN" => ignore = boolean(value).ok_or_else(|| wrong(pair, "write 1 or 0"))?,
                "K8S_POD_NAMESPACE" => namespace = Some(value),
                "K8S_POD_NAME" => name = Some(value),
                "K8S_POD_UID" => uid = Some(value),
                // The sandbox: the same as CNI_CONTAINERID.
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "MAC" => args.mac = Some(value.parse().map_err(|error| wrong(pair, error))?),
                "IP" => args.ips = addresses(value.split(',')).map_err(|error| wrong(pair, error))?,
                _ => unknown = unknown.or(Some(pair)),
            }
        }
        if let (Some(pair), false) = (unknown, ignore) {
            return Err(wrong(
                pair,
                "clearway-cni has no such key; with `IgnoreUnknown=1` it is passed over",
            ));
        }
        // Runtimes that know of no pod leave them empty: all of their containers would be one pod.
        let [namespace, name] = [namespace, name].map(|text| text.filter(|text: &&str| !text.is_empty()));
        if let (Some(namespace), Some(name)) = (namespace, name) {
            args.pod = Some(Pod {
                namespace: namespace.into(),
                name: name.into(),
                uid: uid.filter(|uid| !uid.is_empty()).map(Into::into),
            });
        }
        Ok(args)
    }
}

/// Addresses with or without a prefix's length; the error names the wrong one.
pub(crate) fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<IpAddr>, String> {
    let address = |text: &str| {
        let text = text.trim();
        let bare = text.parse::<IpAddr>().ok();
        bare.or_else(|| text.parse::<ipnet::IpNet>().ok().map(|net| net.addr()))
            .ok_or_else(|| {
                format!(
                    "{:?} is not an IP address such as 10.9.0.5 or 10.9.0.5/24",
                    cut(text.into())
                )
            })
    };
    texts.map(address).collect()
}

fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn wrong(pair: &str, reason: impl ToString) -> EnvironmentError {
    EnvironmentError::Args {
        pair: pair.into(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_passes_is_read() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1;\
                    K8S_POD_UID=u1;SOMETHING=else";
        let args = Args::parse(text).unwrap();
        let pod = args.pod.unwrap();
        assert_eq!(pod.to_string(), "default/web-0");
        assert_eq!(pod.uid.as_deref(), Some("u1"));
    }

    #[test]
    fn a_pod_without_a_name_is_none() {
        for text in [
            "K8S_POD_NAMESPACE=;K8S_POD_NAME=",
            "K8S_POD_NAMESPACE=default;K8S_POD_NAME=",
            "K8S_POD_NAMESPACE=;K8S_POD_NAME=web-0",
            "K8S_POD_NAME=web-0",
        ] {
            assert_eq!(Args::parse(text).unwrap().pod, None, "{text}");
        }
    }

    #[test]
    fn mac_and_ip_are_read() {
        let args = Args::parse("MAC=02:00:00:00:00:07;IP=10.9.0.5/24,2001:db8::5").unwrap();
        assert_eq!(args.mac, Some(MacAddr([2, 0, 0, 0, 0, 7])));
        assert_eq!(args.ips.len(), 2);
        assert_eq!(Args::parse("mac=02:00:00:00:00:07").unwrap().mac, args.mac);
        assert_eq!(Args::parse("").unwrap(), Args::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("FOO=BAR", "FOO=BAR"),
            ("FOO=BAR;IgnoreUnknown=0", "FOO=BAR"),
            ("IgnoreUnknown=perhaps", "IgnoreUnknown"),
            ("IgnoreUnknown=1;K8S_POD_NAME", "K8S_POD_NAME"),
            ("IP=10.9.0.300", "10.9.0.300"),
            ("MAC=02:00", "MAC=02:00"),
        ] {
            let error = Args::parse(text).unwrap_err().to_string();
            assert!(
                error.contains(named) && error.contains("CNI_ARGS"),
                "{text}: {error}"
            );
        }
        assert!(Args::parse("FOO=BAR;IgnoreUnknown=True").is_ok());
    }
}
