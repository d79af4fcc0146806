//! Addresses: whom a request goes to, and where a redirect leads.

use ureq::http::{HeaderMap, Uri, header};

use super::answers::shown;

/// Scheme, host and port: whom a request goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an `http` or `https` address; `None` for any other, and for one that holds a user's name.
    pub(super) fn of(address: &Uri) -> Option<Origin> {
        let https = match address.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = address.authority()?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let port = match (authority.port_u16(), https) {
            (Some(port), _) => port,
            // A port that is there and is no port (`:`, `:99999`) is not the usual one.
            (None, _) if authority.as_str().len() != authority.host().len() => return None,
            (None, true) => 443,
            (None, false) => 80,
        };
        Some(Origin {
            https,
            host: authority.host().to_ascii_lowercase(),
            port,
        })
    }
}

/// The address that a redirect from `base` leads to, by its `Location`, which may be relative.
pub(super) fn redirect(base: &Uri, headers: &HeaderMap) -> Result<Uri, String> {
    let Some(value) = headers.get(header::LOCATION) else {
        return Err("is a redirect without Location".into());
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    location(base, text.trim()).map_err(|problem| format!("redirects to `{}`: {problem}", shown(&text)))
}

pub(super) fn location(base: &Uri, text: &str) -> Result<Uri, &'static str> {
    const NO_ADDRESS: &str = "is not an address";
    let origin = Origin::of(base).ok_or(NO_ADDRESS)?;
    let scheme = if origin.https { "https" } else { "http" };
    let authority = base.authority().ok_or(NO_ADDRESS)?;
    let text = text.split('#').next().unwrap_or_default();
    let path = base.path();
    let absolute = match text.split_once(':') {
        // A colon after a slash or in a query is not that of a scheme.
        Some((scheme, rest)) if !scheme.contains(['/', '?']) => {
            format!("{}:{rest}", scheme.to_ascii_lowercase())
        }
        _ if text.starts_with("//") => format!("{scheme}:{text}"),
        _ if text.starts_with('/') => format!("{scheme}://{authority}{text}"),
        _ if text.is_empty() || text.starts_with('?') => format!("{scheme}://{authority}{path}{text}"),
        _ => {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            format!("{scheme}://{authority}{folder}{text}")
        }
    };
    let to: Uri = absolute.parse().map_err(|_| NO_ADDRESS)?;
    let target = Origin::of(&to).ok_or("only http and https are followed, without a user's name")?;
    if origin.https && !target.https {
        return Err("from https to http, which anybody on the way can read and change");
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_against_where_they_come_from() {
        let base: Uri = "https://hub.example/a/b?c".parse().unwrap();
        let to = |text: &str| location(&base, text).map(|to| to.to_string());
        for (text, wanted) in [
            ("https://cdn.example/x?y:z", "https://cdn.example/x?y:z"),
            ("HTTPS://cdn.example/x", "https://cdn.example/x"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/x/y", "https://hub.example/x/y"),
            ("/x:y", "https://hub.example/x:y"),
            ("x", "https://hub.example/a/x"),
            ("?q=1", "https://hub.example/a/b?q=1"),
            ("/x#part", "https://hub.example/x"),
            ("", "https://hub.example/a/b"),
        ] {
            assert_eq!(to(text).as_deref(), Ok(wanted), "{text}");
        }
        for bad in [
            "http://hub.example/x",
            "HTTP://hub.example/x",
            "ftp://hub.example/x",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "https://user@hub.example/x",
            "https://hub.example:99999/x",
            "https:///x",
            "https://hub.example/a b",
            "https://hub.example\\@evil.example/",
        ] {
            assert!(to(bad).is_err(), "{bad}: {:?}", to(bad));
        }
        let base: Uri = "http://hub.example/".parse().unwrap();
        assert!(location(&base, "http://other.example/").is_ok());
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap());
        let hub = origin("https://hub.example/x").unwrap();
        for same in ["https://HUB.example/", "https://hub.example:443/y"] {
            assert_eq!(origin(same).as_ref(), Some(&hub), "{same}");
        }
        for other in [
            "http://hub.example/",
            "http://hub.example:443/",
            "https://hub.example:8443/",
            "https://hub.example.evil.example/",
            "https://hub.example./",
            "https://evil.example/hub.example",
        ] {
            assert_ne!(origin(other).as_ref(), Some(&hub), "{other}");
        }
        assert_eq!(origin("https://hub.example@evil.example/"), None);
    }
}
