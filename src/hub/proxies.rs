//! Proxies by the environment, as curl takes them: `http_proxy` for addresses of http, `https_proxy` for those of https,
//! `all_proxy` for both where the other is not set, none for hosts in `no_proxy`; each name in capitals too.

use ureq::Proxy;
use ureq::http::Uri;

use super::settings::text;

/// Which proxy a request goes through.
#[derive(Debug)]
pub(super) struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    /// Hosts that are asked directly: in lower case, without brackets.
    direct: Vec<String>,
}

impl Proxies {
    /// Reads the environment. A variable that means no proxy is an error, which does not show its value: that may hold a
    /// password. To ignore it would send requests a way that the user did not want.
    pub(super) fn from_env() -> Result<Proxies, String> {
        let all = ["all_proxy", "ALL_PROXY"];
        let first = |own: [&'static str; 2]| {
            let mut names = own.into_iter().chain(all);
            names.find_map(|name| text(name).map(|value| (name, value)))
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
        let direct = text("no_proxy").or_else(|| text("NO_PROXY")).unwrap_or_default();
        Ok(Proxies {
            http: read(["http_proxy", "HTTP_PROXY"])?,
            https: read(["https_proxy", "HTTPS_PROXY"])?,
            direct: hosts(&direct),
        })
    }

    /// The proxy for an address, if it has one.
    pub(super) fn of(&self, address: &Uri) -> Option<&Proxy> {
        let proxy = match address.scheme_str() {
            Some("https") => &self.https,
            _ => &self.http,
        };
        let host = plain(address.host().unwrap_or_default());
        proxy
            .as_ref()
            .filter(|_| !self.direct.iter().any(|entry| is_of(&host, entry)))
    }
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

/// The entries of a list with commas or blanks.
fn hosts(list: &str) -> Vec<String> {
    let entries = list.split(|c: char| c == ',' || c.is_whitespace());
    entries.filter(|entry| !entry.is_empty()).map(plain).collect()
}

/// A host's name in one spelling.
fn plain(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.to_owned(),
        None => host,
    }
}

/// Whether an entry means this host: by its name, by a domain that it is in (`example.com`, `.example.com`,
/// `*.example.com`), or by its start (`192.168.*`).
fn is_of(host: &str, entry: &str) -> bool {
    if let Some(start) = entry.strip_suffix('*') {
        return host.starts_with(start);
    }
    let domain = entry.trim_start_matches('*').trim_start_matches('.');
    let rest = host.strip_suffix(domain);
    !domain.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
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
        let is_direct = |list: &str, host: &str| hosts(list).iter().any(|entry| is_of(&plain(host), entry));
        for (list, host) in [
            ("*", "hub.example"),
            ("a.example, HUB.example", "hub.example"),
            ("example", "Hub.example"),
            (".hub.example", "cdn.hub.example"),
            ("*.hub.example", "cdn.hub.example"),
            ("192.168.*", "192.168.0.1"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
        ] {
            assert!(is_direct(list, host), "{list}: {host}");
        }
        for (list, host) in [
            ("", "hub.example"),
            (",", "hub.example"),
            (".", "hub.example"),
            ("b.example", "hub.example"),
            ("hub.example", "hub.example.evil"),
            ("192.168.*", "192.16.0.1"),
        ] {
            assert!(!is_direct(list, host), "{list}: {host}");
        }
    }
}
