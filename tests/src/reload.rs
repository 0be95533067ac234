//! Listeners in a file that Envoy watches, so that a test can change the configuration without a restart.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The listeners of a configuration, and Warmpath's settings in them.
#[derive(Debug)]
pub struct Listeners {
    file: PathBuf,
    /// Text of the file, with a mark in the place of the settings.
    text: String,
    settings: Value,
    version: u32,
}

const MARK: &str = "@SETTINGS@";

impl Listeners {
    /// Moves the listeners of `configuration`, the output of `scripts/envoy-config`, into `file`. Returns the
    /// rest of the configuration, which tells Envoy to read `file`.
    pub fn split(configuration: &str, file: &Path) -> (String, Listeners) {
        let (before, rest) = configuration.split_once("\nstatic_resources:\n  listeners:\n").unwrap();
        let (listeners, clusters) = rest.split_once("\n  clusters:\n").unwrap();
        let path = file.display();
        let bootstrap = format!(
            "{before}\ndynamic_resources:\n  lds_config:\n    resource_api_version: V3\n    \
             path_config_source: {{ path: {path} }}\nstatic_resources:\n  clusters:\n{clusters}"
        );

        // A YAML anchor does not reach into another file, so the router gets a copy of the collector's
        // settings.
        let (_, settings) = before.split_once("configuration: &warmpath\n").unwrap();
        let (_, settings) = settings.split_once("value: |\n").unwrap();
        let settings = serde_json::Deserializer::from_str(settings).into_iter().next().unwrap().unwrap();
        let own = format!(
            "configuration: {{ \"@type\": type.googleapis.com/google.protobuf.StringValue, value: '{MARK}' }}"
        );
        let typed = "    - \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n      name: ";
        let text = listeners.replace("configuration: *warmpath", &own);
        assert_ne!(text, listeners, "the router's settings are no longer `*warmpath`");
        let text = format!("\n{text}").replace("\n    - name: ", &format!("\n{typed}"));
        let listeners = Listeners { file: file.to_owned(), text, settings, version: 0 };
        listeners.write();
        (bootstrap, listeners)
    }

    /// Changes the router's settings, and replaces the file with a new version.
    pub fn change(&mut self, with: impl FnOnce(&mut Value)) {
        with(&mut self.settings);
        self.version += 1;
        self.write();
    }

    fn write(&self) {
        let text = self.text.replace(MARK, &self.settings.to_string().replace('\'', "''"));
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("version_info: \"{}\"\nresources:{text}\n", self.version)).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }
}
