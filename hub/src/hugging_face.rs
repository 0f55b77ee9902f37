//! Models from the Hugging Face hub, or from a mirror that speaks its protocol.
//!
//! `GET {hub}/api/models/{id}?blobs=true` lists the files of the newest revision; `GET {hub}/{id}/resolve/{revision}/{file}`
//! gives one. Large files come with their sha256, which is checked.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;

use crate::pinned::{DEFAULT_MODEL, DEFAULT_MODEL_ON_HUB, check_default_model, check_file};
use crate::{PullError, is_model, is_name};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Without a byte, in the middle of a file.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_LISTING_BYTES: u64 = 16 << 20;

#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: String,
}

/// Fetches the files of a model that its loader reads.
pub fn fetch(
    hub: &str,
    name: &str,
    into: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<String, PullError> {
    let is_default = name == DEFAULT_MODEL;
    let id = if is_default {
        DEFAULT_MODEL_ON_HUB
    } else {
        name
    };
    say(&format!("asking {hub} for {id}"));
    let agent = agent(STALL_TIMEOUT);
    let listing = list(&agent, &format!("{hub}/api/models/{id}?blobs=true"))?;
    if !is_name(&listing.sha) {
        return Err(PullError::Name { name: listing.sha });
    }
    let wanted = wanted(&listing.siblings);
    if !wanted.iter().any(|file| is_weights(&file.rfilename)) {
        return Err(PullError::NoWeights {
            from: format!("{hub}/{id}"),
        });
    }
    for file in wanted {
        let name = &file.rfilename;
        let megabytes = file.size.unwrap_or(0) as f64 / 1e6;
        say(&format!("getting {name} ({megabytes:.1} MB)"));
        let path = into.join(name);
        download(
            &agent,
            &format!("{hub}/{id}/resolve/{}/{name}", listing.sha),
            &path,
        )?;
        if let Some(large) = &file.lfs {
            check_file(&path, name, &large.sha256, hub)?;
        }
    }
    if is_default {
        check_default_model(into, hub)?;
    } else if !is_model(into) {
        return Err(PullError::Missing {
            file: "config.json".to_owned(),
            from: format!("{hub}/{id}"),
        });
    }
    Ok(format!("{hub}/{id} at {}", listing.sha))
}

/// Asks with timeouts; a file may take as long as it comes at all.
fn agent(stall: Duration) -> Agent {
    let config = Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_per_read(Some(stall))
        .build();
    Agent::new_with_config(config)
}

/// Configuration and tokenizer files, and the weights of each folder once: safetensors before the older format. The modules of
/// a model may have another format than its transformer.
fn wanted(siblings: &[Sibling]) -> Vec<&Sibling> {
    let has = |folder: &str, name: &str| {
        let path = format!("{folder}{name}");
        siblings.iter().any(|file| file.rfilename == path)
    };
    let wanted = |file: &&Sibling| {
        let path = file.rfilename.as_str();
        if !path.split('/').all(is_name) || path.split('/').count() > 2 {
            return false;
        }
        let (folder, name) = path.split_at(path.rfind('/').map_or(0, |slash| slash + 1));
        let root = folder.is_empty();
        let module = folder.starts_with(|first: char| first.is_ascii_digit());
        let text = name.ends_with(".json") || name.ends_with(".txt") || name.ends_with(".model");
        let has_safetensors =
            has(folder, "model.safetensors") || has(folder, "model.safetensors.index.json");
        let weights = match has_safetensors {
            true => name.starts_with("model") && name.ends_with(".safetensors"),
            false => name == "pytorch_model.bin",
        };
        (root || module) && (text || weights)
    };
    siblings.iter().filter(wanted).collect()
}

/// Whether a file that is fetched holds weights.
fn is_weights(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".bin")
}

fn list(agent: &Agent, url: &str) -> Result<Listing, PullError> {
    let failed = |source| PullError::Http {
        url: url.to_owned(),
        source,
    };
    let mut body = String::new();
    open(agent, url)?
        .take(MAX_LISTING_BYTES)
        .read_to_string(&mut body)
        .map_err(|error| failed(error.into()))?;
    serde_json::from_str(&body).map_err(|error| failed(error.into()))
}

fn download(agent: &Agent, url: &str, path: &Path) -> Result<(), PullError> {
    let mut body = open(agent, url)?;
    let failed = |source| PullError::write(path, source);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut file = File::create(path).map_err(failed)?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return file.sync_all().map_err(failed),
            Ok(n_bytes) => file.write_all(&buffer[..n_bytes]).map_err(failed)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(PullError::Http {
                    url: url.to_owned(),
                    source: error.into(),
                });
            }
        }
    }
}

/// Sends the request, and once more when it fails.
fn open(agent: &Agent, url: &str) -> Result<impl Read, PullError> {
    let get = || agent.get(url).call();
    let answer = match get() {
        Err(ureq::Error::StatusCode(status)) if status < 500 => {
            Err(ureq::Error::StatusCode(status))
        }
        Err(_) => get(),
        answer => answer,
    };
    let failed = |error: ureq::Error| PullError::Http {
        url: url.to_owned(),
        source: error.into(),
    };
    Ok(answer
        .map_err(failed)?
        .into_body()
        .into_with_config()
        .limit(u64::MAX)
        .reader())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;
    use crate::ModelCache;

    /// A hub of one model; answers `n_requests` requests, then ends.
    fn hub(
        n_requests: usize,
        weights_sha256: &'static str,
    ) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serve = move || {
            let mut asked = Vec::new();
            for _ in 0..n_requests {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let line = lines.next().unwrap().unwrap();
                while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
                let path = line.split(' ').nth(1).unwrap().to_owned();
                let body = match path.rsplit('/').next().unwrap() {
                    "e5?blobs=true" => format!(
                        r#"{{"sha":"abc","siblings":[{{"rfilename":"config.json","size":2}},
                        {{"rfilename":"model.safetensors","size":4,"lfs":{{"sha256":"{weights_sha256}"}}}},
                        {{"rfilename":"pytorch_model.bin"}},{{"rfilename":"onnx/model.onnx"}},
                        {{"rfilename":"../evil.json"}},{{"rfilename":"1_Pooling/config.json"}}]}}"#
                    ),
                    "old?blobs=true" => r#"{"sha":"abc","siblings":[{"rfilename":"modules.json"},
                        {"rfilename":"0_Transformer/config.json"},{"rfilename":"0_Transformer/pytorch_model.bin"}]}"#
                        .to_owned(),
                    "shards?blobs=true" => r#"{"sha":"abc","siblings":[{"rfilename":"config.json"},
                        {"rfilename":"pytorch_model.bin.index.json"},{"rfilename":"pytorch_model-00001-of-00001.bin"}]}"#
                        .to_owned(),
                    "onnx?blobs=true" => r#"{"sha":"abc","siblings":[{"rfilename":"config.json"},
                        {"rfilename":"onnx/model.onnx"},{"rfilename":"model.onnx"}]}"#
                        .to_owned(),
                    "config.json" => "{}".to_owned(),
                    "model.safetensors" => "abcd".to_owned(),
                    _ => String::new(),
                };
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).unwrap();
                asked.push(path);
            }
            asked
        };
        (url, std::thread::spawn(serve))
    }

    const SHA256_OF_ABCD: &str = "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589";

    #[test]
    fn the_files_a_loader_reads_are_fetched_and_put_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let (url, server) = hub(4, SHA256_OF_ABCD);
        let cache = ModelCache::new(folder.path().join("models")).with_hub(url);
        let pulled = cache.pull("intfloat/e5", &mut |_| ()).unwrap();
        assert!(pulled.source.ends_with("intfloat/e5 at abc"));
        assert_eq!(
            fs::read(pulled.path.join("model.safetensors")).unwrap(),
            b"abcd"
        );
        assert!(pulled.path.join("1_Pooling/config.json").is_file());
        assert_eq!(server.join().unwrap().len(), 4);
        assert_eq!(
            cache.pull("intfloat/e5", &mut |_| ()).unwrap().source,
            "already there"
        );
    }

    #[test]
    fn a_model_whose_transformer_has_a_folder_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (url, server) = hub(4, SHA256_OF_ABCD);
        let cache = ModelCache::new(folder.path().join("models")).with_hub(url);
        let pulled = cache.pull("lab/old", &mut |_| ()).unwrap();
        assert!(
            pulled
                .path
                .join("0_Transformer/pytorch_model.bin")
                .is_file()
        );
        assert_eq!(server.join().unwrap().len(), 4);
        assert!(cache.contains("lab/old"));
    }

    #[test]
    fn each_folder_of_a_model_keeps_the_weights_that_are_read() {
        let read = [
            "2_Dense/pytorch_model.bin",
            "3_Dense/model.safetensors",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ];
        let unread = [
            "3_Dense/pytorch_model.bin",
            "onnx/model.onnx",
            "pytorch_model.bin",
        ];
        let siblings = read.iter().chain(&unread).map(|name| Sibling {
            rfilename: (*name).to_owned(),
            size: None,
            lfs: None,
        });
        let siblings: Vec<_> = siblings.collect();
        let names = wanted(&siblings)
            .into_iter()
            .map(|file| file.rfilename.as_str());
        assert_eq!(names.collect::<Vec<_>>(), read);
    }

    #[test]
    fn damaged_weights_are_refused_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (url, _server) = hub(3, "00");
        let cache = ModelCache::new(folder.path().join("models")).with_hub(url);
        let error = cache
            .pull("intfloat/e5", &mut |_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("model.safetensors") && error.contains(SHA256_OF_ABCD),
            "{error}"
        );
        assert!(!cache.contains("intfloat/e5"));
        let left: Vec<_> = fs::read_dir(cache.root().join("intfloat"))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn weights_that_no_loader_reads_are_told_before_anything_is_fetched() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["lab/shards", "lab/onnx"] {
            let (url, server) = hub(1, SHA256_OF_ABCD);
            let cache = ModelCache::new(folder.path().join("models")).with_hub(url);
            let error = cache.pull(name, &mut |_| ()).unwrap_err().to_string();
            let expected = format!("{name} has no weights that are read");
            assert!(error.contains(&expected), "{error}");
            assert_eq!(server.join().unwrap().len(), 1);
            assert!(!cache.contains(name));
        }
    }

    /// Serves half of a file at an address; then it breaks the connection, or holds it until the other side gives up.
    fn half_a_file(holds: bool) -> (String, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/weights", listener.local_addr().unwrap());
        let serve = move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nabcd";
            stream.write_all(answer).unwrap();
            assert!(!holds || lines.next().is_none_or(|line| line.is_err()));
        };
        (url, std::thread::spawn(serve))
    }

    #[test]
    fn a_connection_that_breaks_is_no_failure_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let (url, server) = half_a_file(false);
        let agent = Agent::new_with_config(Agent::config_builder().build());
        let error = download(&agent, &url, &folder.path().join("weights")).unwrap_err();
        assert!(matches!(error, PullError::Http { .. }), "{error}");
        assert!(error.to_string().contains(&url), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_download_that_stalls_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (url, server) = half_a_file(true);
        let agent = agent(Duration::from_millis(200));
        let error = download(&agent, &url, &folder.path().join("weights")).unwrap_err();
        assert!(matches!(error, PullError::Http { .. }), "{error}");
        drop(agent);
        server.join().unwrap();
    }
}
