//! Proxies by the environment, as curl takes them: `http_proxy` for addresses of http, `https_proxy` for those of https,
//! `all_proxy` for both where the other is not set, none for hosts in `no_proxy`; each name in capitals too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::Proxy;
use ureq::http::Uri;

use super::answers::{number, shown};
use super::settings::text;

/// Which proxy a request goes through.
#[derive(Debug)]
pub(super) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    /// What is asked directly.
    direct: Vec<Direct>,
}

impl Proxies {
    /// Reads the environment. A variable that means no proxy is an error, which does not show its value: that may hold a
    /// password. To ignore it, or an entry of `no_proxy`, would send requests a way that the user did not want.
    pub(super) fn from_env() -> Result<Proxies, String> {
        let all = ["all_proxy", "ALL_PROXY"];
        let first = |own: [&'static str; 2]| {
            let mut names = own.into_iter().chain(all);
            names.find_map(named)
        };
        let read = |own| {
            match first(own) {
            None => Ok(None),
            Some((name, value)) => parse(&value).map(Some).ok_or_else(|| {
                format!(
                    "{name} is not the address of a proxy; wanted `http://HOST:PORT`, or `https`, `socks4`, `socks4a`, \
                     `socks5` or `socks5h` in place of `http`; unset it to use none"
                )
            }),
        }
        };
        let (http, https) = (
            read(["http_proxy", "HTTP_PROXY"])?,
            read(["https_proxy", "HTTPS_PROXY"])?,
        );
        let has_proxy = http.is_some() || https.is_some();
        let list = ["no_proxy", "NO_PROXY"].into_iter().find_map(named);
        let direct = match list.filter(|_| has_proxy) {
            None => Vec::new(),
            Some((name, list)) => directs(&list).map_err(|entry| {
                format!(
                    "{name} has `{}`; wanted a host or a domain, with or without `:PORT`, an address of IP, a range of them \
                     as in `10.0.0.0/8`, or `*`",
                    shown(entry)
                )
            })?,
        };
        Ok(Proxies { http, https, direct })
    }

    /// The proxy for an address, if it has one.
    pub(super) fn of(&self, address: &Uri) -> Option<&Proxy> {
        let (proxy, usual_port) = match address.scheme_str() {
            Some("https") => (&self.https, 443),
            _ => (&self.http, 80),
        };
        let host = plain(address.host().unwrap_or_default());
        let port = address.port_u16().unwrap_or(usual_port);
        let is_direct = self.direct.iter().any(|entry| entry.is_for(&host, port));
        proxy.as_ref().filter(|_| !is_direct)
    }
}

/// A variable that is set, with its name.
fn named(name: &'static str) -> Option<(&'static str, String)> {
    text(name).map(|value| (name, value))
}

fn parse(value: &str) -> Option<Proxy> {
    let proxy = Proxy::new(value.trim()).ok()?;
    let authority = proxy.uri().authority()?;
    let host_and_port = authority.as_str().rsplit('@').next()?;
    // A port that is there and is no port (`:99999`) is not the usual one.
    let is_address = !authority.host().is_empty()
        && (authority.port_u16().is_some() || host_and_port.len() == authority.host().len());
    is_address.then_some(proxy)
}

/// The entries of a list with commas or blanks; else the first that means nothing.
fn directs(list: &str) -> Result<Vec<Direct>, &str> {
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    let entries = entries.filter(|entry| !entry.is_empty());
    entries.map(|entry| Direct::parse(entry).ok_or(entry)).collect()
}

/// A host's name in one spelling.
fn plain(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.to_owned(),
        None => host.strip_suffix('.').unwrap_or(&host).to_owned(),
    }
}

/// An entry of `no_proxy`.
#[derive(Debug)]
struct Direct {
    hosts: Hosts,
    /// All ports, if none is named.
    port: Option<u16>,
}

#[derive(Debug)]
enum Hosts {
    /// The addresses that have so many first bits in common with this one.
    Range(IpAddr, u64),
    /// What starts so: `192.168.*`.
    Start(String),
    /// A name, and all in the domain of that name: `example.com`, `.example.com`, `*.example.com`.
    Domain(String),
}

impl Direct {
    fn parse(entry: &str) -> Option<Direct> {
        if let Some((ip, bits)) = entry.split_once('/') {
            let (ip, bits) = (start_of_range(&plain(ip))?, number(bits)?);
            let hosts = Hosts::Range(ip, bits);
            return (bits <= all_bits(&ip)).then_some(Direct { hosts, port: None });
        }
        // A colon is one of an address, or stands before a port.
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !entry.ends_with(']') && entry.parse::<Ipv6Addr>().is_err() => {
                (host, Some(u16::try_from(number(port)?).ok()?))
            }
            _ => (entry, None),
        };
        let host = plain(host);
        let hosts = if let Ok(ip) = host.parse() {
            Hosts::Range(ip, all_bits(&ip))
        } else if let Some(start) = host.strip_suffix('*') {
            Hosts::Start(start.to_owned())
        } else {
            let domain = host.trim_start_matches('*').trim_start_matches('.');
            Hosts::Domain(domain.to_owned())
        };
        let is_named = |name: &str| {
            name.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let means_something = match &hosts {
            Hosts::Range(..) => true,
            Hosts::Start(start) => is_named(start),
            // Numbers at the end are those of an address, of which something is missing.
            Hosts::Domain(name) => {
                let last = name.rsplit('.').next().unwrap_or_default();
                is_named(name) && !last.bytes().all(|b| b.is_ascii_digit())
            }
        };
        means_something.then_some(Direct { hosts, port })
    }

    fn is_for(&self, host: &str, port: u16) -> bool {
        let is_host = match &self.hosts {
            Hosts::Range(ip, bits) => host.parse().is_ok_and(|host| is_in(host, *ip, *bits)),
            Hosts::Start(start) => host.starts_with(start),
            Hosts::Domain(domain) => {
                let rest = host.strip_suffix(domain.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        };
        is_host && self.port.is_none_or(|own| own == port)
    }
}

/// The address before `/`. Its last numbers may be missing, as macOS writes it: `169.254/16`.
fn start_of_range(ip: &str) -> Option<IpAddr> {
    let missing = 3_usize.saturating_sub(ip.matches('.').count());
    let all: Option<Ipv4Addr> = (ip.to_owned() + &".0".repeat(missing)).parse().ok();
    all.map(IpAddr::V4).or_else(|| ip.parse().ok())
}

fn all_bits(ip: &IpAddr) -> u64 {
    if ip.is_ipv4() { 32 } else { 128 }
}

/// Whether an address has so many first bits in common with another one.
fn is_in(ip: IpAddr, other: IpAddr, bits: u64) -> bool {
    let differing = match (ip, other) {
        (IpAddr::V4(ip), IpAddr::V4(other)) => u128::from(ip.to_bits() ^ other.to_bits()) << 96,
        (IpAddr::V6(ip), IpAddr::V6(other)) => ip.to_bits() ^ other.to_bits(),
        _ => return false,
    };
    u64::from(differing.leading_zeros()) >= bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_scheme_that_is_known_a_host_and_a_port_that_is_one() {
        for (value, wanted) in [
            ("http://user:p%40ss@proxy.example:3128", ("proxy.example", 3128)),
            ("proxy.example:3128", ("proxy.example", 3128)),
            ("socks5h://proxy.example", ("proxy.example", 1080)),
            (" http://[::1]:1 ", ("[::1]", 1)),
        ] {
            let proxy = parse(value).unwrap();
            assert_eq!((proxy.host(), proxy.port()), wanted, "{value}");
        }
        for bad in [
            "not a proxy",
            "ftp://proxy.example:1",
            "http://",
            "http://proxy.example:99999",
            "http://proxy.example:",
            "http://user:secret",
            "http://:3128",
            "/",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn hosts_without_a_proxy_are_those_of_the_list() {
        let is_direct = |list: &str, host: &str| {
            let address: Uri = format!("http://{host}/x").parse().unwrap();
            let proxies = Proxies {
                http: parse("http://proxy.example:1"),
                https: None,
                direct: directs(list).unwrap(),
            };
            proxies.of(&address).is_none()
        };
        for (list, host) in [
            ("*", "hub.example"),
            ("a.example, HUB.example", "hub.example"),
            ("example", "Hub.example"),
            (".hub.example", "cdn.hub.example"),
            ("*.hub.example", "cdn.hub.example"),
            ("hub.example.", "hub.example"),
            ("hub.example", "hub.example."),
            ("hub.example:80", "hub.example"),
            ("hub.example:8080", "cdn.hub.example:8080"),
            ("192.168.*", "192.168.0.1"),
            ("127.0.0.1", "127.0.0.1:8080"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("127.0.0.0/8", "127.255.0.1"),
            ("127.1.2.3/8", "127.255.0.1"),
            ("0.0.0.0/0", "1.2.3.4"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("169.254/16", "169.254.7.7"),
            ("*.local, 10/8", "10.7.7.7"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]:8080"),
            ("[::1]:8080", "[::1]:8080"),
            ("0:0:0::1", "[::1]"),
            ("fe80::/10", "[febf::1]"),
            ("[fe80::]/10", "[febf::1]"),
        ] {
            assert!(is_direct(list, host), "{list}: {host}");
        }
        for (list, host) in [
            ("", "hub.example"),
            (",", "hub.example"),
            ("b.example", "hub.example"),
            ("hub.example", "hub.example.evil"),
            ("hub.example:443", "hub.example"),
            ("192.168.*", "192.16.0.1"),
            ("127.0.0.1:8080", "127.0.0.1:8081"),
            ("127.0.0.0/8", "128.0.0.1"),
            ("10.0.0.0/31", "10.0.0.2"),
            ("169.254/16", "169.253.7.7"),
            ("0.0.0.0/0", "[::1]"),
            ("0.0.0.0/0", "hub.example"),
            ("fe80::/10", "[fec0::1]"),
        ] {
            assert!(!is_direct(list, host), "{list}: {host}");
        }
        for bad in [
            ".",
            "127.",
            ".0.1",
            "256.0.0.1",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0.0/8",
            "/8",
            "hub.example/8",
            "http://hub.example",
            "hub.example:",
            "hub.example:99999",
            "hub.example:http",
            "hub.*.example",
            "<local>",
            "[::1",
        ] {
            assert_eq!(directs(&format!("a.example,{bad}")).unwrap_err(), bad);
        }
    }
}
