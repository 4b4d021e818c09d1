//! nginx on one real.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Blob, Host, Lab, LabError, Process, program::plain};

/// nginx on one real: says who it is, serves the blob and takes uploads.
///
/// | request | answer |
/// |---|---|
/// | `GET /` | the real's name and a line end |
/// | `GET /blob` | the [`Blob`] |
/// | `PUT /upload/NAME` | 201; the body is in [`Nginx::uploads`]`/NAME` |
///
/// Every answer has the headers `X-Real` (the real's name), `X-Port` (the source port it saw) and `X-Address` (the
/// source address).
#[derive(Debug)]
pub struct Nginx {
    host: Host,
    process: Process,
    directory: PathBuf,
}

impl Nginx {
    pub(crate) fn start(lab: &Lab, host: Host, program: &Path, listen: &[SocketAddr], blob: &Blob) -> Result<Self, LabError> {
        let directory = lab.directory().join(host.to_string());
        for part in ["upload", "temporary"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).map_err(LabError::file("make", path))?;
        }
        let file = directory.join("nginx.conf");
        let text = configuration(host, plain(&directory)?, listen, plain(&blob.path)?);
        fs::write(&file, text).map_err(LabError::file("write", &file))?;
        let mut command = Command::new(program);
        command.arg("-e").arg("stderr").arg("-p").arg(&directory).arg("-c").arg(&file);
        Ok(Self { host, process: lab.spawn(host, command)?, directory })
    }

    /// Where it runs.
    #[must_use]
    pub fn host(&self) -> Host {
        self.host
    }

    /// The server.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    pub(crate) fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The directory that uploads end up in.
    #[must_use]
    pub fn uploads(&self) -> PathBuf {
        self.directory.join("upload")
    }

    /// One line an answer: source address and port, VIP and port, request, status, bytes.
    #[must_use]
    pub fn access_log(&self) -> PathBuf {
        self.directory.join("access.log")
    }
}

/// In the foreground and with all its files in `directory`: nothing of the host's own nginx is read or written. As root,
/// since the lab's directory is root's; it is reachable from the lab's namespaces only.
fn configuration(host: Host, directory: &str, listen: &[SocketAddr], blob: &str) -> String {
    let listen: String = listen.iter().map(|address| format!("        listen {address};\n")).collect();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {directory}/temporary/{kind};\n"))
        .concat();
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{
    worker_connections 1000;
}}
http {{
    log_format lab "$remote_addr $remote_port $server_addr $server_port $request_method $uri $status $body_bytes_sent";
    access_log {directory}/access.log lab;
    default_type application/octet-stream;
{temporary}    sendfile on;
    server {{
{listen}        add_header X-Real {host} always;
        add_header X-Port $remote_port always;
        add_header X-Address $remote_addr always;
        location / {{
            return 200 "{host}\n";
        }}
        location = /blob {{
            alias {blob};
        }}
        location /upload/ {{
            root {directory};
            dav_methods PUT;
            client_max_body_size 0;
        }}
    }}
}}
"#
    )
}
