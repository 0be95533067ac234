// Holds a Grafana dashboard against the schema that Grafana publishes as TypeScript in @grafana/schema: the document, and in each
// panel the options, the fields and the queries, whose shape depends on the panel's type. An unknown key is an error, as Grafana
// would silently do without it.
//
// node check.mjs DASHBOARD

import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import Ajv from "ajv";
import { createGenerator } from "ts-json-schema-generator";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const PUBLISHED = path.join(HERE, "node_modules/@grafana/schema/dist/esm/raw");
// Panels by type; a panel without fields of its own has no second type.
const PANELS = {
  stat: ["StatPanelCfg", "stat"],
  "state-timeline": ["StateTimelinePanelCfg", "statetimeline", "FieldConfig"],
  timeseries: ["TimeSeriesPanelCfg", "timeseries", "FieldConfig"],
};
// The first version of the schema that has all that Grafana 10.4 reads.
const OLDEST = 39;

const ajv = new Ajv({ allErrors: true, strict: false });

function validator(file, type) {
  const from = { path: path.join(PUBLISHED, `${file}_types.gen.d.ts`), type, skipTypeCheck: true };
  return ajv.compile(createGenerator({ ...from, additionalProperties: false }).createSchema(type));
}

const problems = [];

function hold(place, value, validate) {
  if (validate(value)) return;
  for (const { instancePath, message, params } of validate.errors) {
    problems.push(`${place}${instancePath} ${message} ${JSON.stringify(params)}`);
  }
}

const dashboard = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
hold("dashboard", dashboard, validator("dashboard/x/dashboard", "Dashboard"));
if (dashboard.schemaVersion < OLDEST) problems.push(`schemaVersion is ${dashboard.schemaVersion}; use ${OLDEST} or newer`);

const query = validator("composable/prometheus/dataquery/x/PrometheusDataQuery", "PrometheusDataQuery");
const validators = {};
let panels = 0;
for (const panel of dashboard.panels.filter((panel) => panel.type !== "row")) {
  const place = `panel "${panel.title}"`;
  if (!(panel.type in PANELS)) {
    problems.push(`${place} has the type ${panel.type}; add it to PANELS in check.mjs`);
    continue;
  }
  const [name, folder, fields] = PANELS[panel.type];
  const file = `composable/${folder}/panelcfg/x/${name}`;
  validators[panel.type] ??= { options: validator(file, "Options"), fields: fields && validator(file, fields) };
  const { options, fields: custom } = validators[panel.type];
  hold(`${place}: options`, panel.options, options);
  if (panel.fieldConfig.defaults.custom !== undefined) {
    if (custom) hold(`${place}: fieldConfig.defaults.custom`, panel.fieldConfig.defaults.custom, custom);
    else problems.push(`${place} has custom fields, which its type has not`);
  }
  panel.targets.forEach((target, nth) => hold(`${place}: targets[${nth}]`, target, query));
  panels += 1;
}

if (panels === 0) problems.push("there is no panel");
if (problems.length > 0) {
  console.error(problems.join("\n"));
  process.exit(1);
}
console.log(`${panels} panels keep to the schema of Grafana ${JSON.parse(fs.readFileSync(path.join(HERE, "node_modules/@grafana/schema/package.json"))).version}`);
