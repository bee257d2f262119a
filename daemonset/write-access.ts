/**
 * Writes `daemonset/mesh/templates/access.yaml` from the rules in `src/kubernetes/rbac.ts`: `npm run gen:access`. Nothing in
 * these objects depends on a value, so nobody needs to write them twice by hand.
 */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { stringify } from 'yaml';

import { accessObjects } from '../src/cli/install/access.ts';

const FILE = join(import.meta.dirname, 'mesh/templates/access.yaml');
const VERSION = '{{ .Chart.AppVersion }}';

const documents = accessObjects(VERSION).map((object) => {
  const text = stringify(object, { lineWidth: 0, aliasDuplicateObjects: false });
  // The template is no string to YAML.
  return text.replaceAll(`"${VERSION}"`, VERSION);
});
const head =
  '# Written by daemonset/write-access.ts from src/kubernetes/rbac.ts, where each rule has its reason.\n';
writeFileSync(FILE, head + documents.join('---\n'));
