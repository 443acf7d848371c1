// Kubernetes' OpenAPI document in, one JSON schema per kind out, named as kubeconform looks for them. Fields that are not in
// the document are refused; the document alone would let every misspelling pass.
//
//   node kubernetes-schemas.mjs SWAGGER_JSON FOLDER
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const [source, folder] = process.argv.slice(2);
const { definitions } = JSON.parse(readFileSync(source, "utf8"));

// Types that the document describes as they are stored, where people may write them in two ways.
definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = { type: ["string", "integer"] };
definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = { type: ["string", "number"] };
for (const definition of Object.values(definitions)) {
  if (definition.properties) definition.additionalProperties ??= false;
}
mkdirSync(folder, { recursive: true });
writeFileSync(join(folder, "definitions.json"), JSON.stringify({ definitions }));
for (const [name, definition] of Object.entries(definitions)) {
  for (const { group, kind, version } of definition["x-kubernetes-group-version-kind"] ?? []) {
    const suffix = [group.split(".")[0], version].filter(Boolean).join("-");
    const schema = { $ref: `definitions.json#/definitions/${name}` };
    writeFileSync(join(folder, `${kind.toLowerCase()}-${suffix}.json`), JSON.stringify(schema));
  }
}
