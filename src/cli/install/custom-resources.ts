/** Our CRDs: hand-written YAML in `daemonset/crds/templates`, which is also the Helm chart of the CRDs. */

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { parseAllDocuments } from 'yaml';

import { MeshError } from '../../base/errors.ts';
import type { KubeObject } from './kube-object.ts';

/** The same path from `src/cli/install`, from `dist/cli/install` and in the image. */
const FOLDER = join(import.meta.dirname, '../../../daemonset/crds/templates');

/** Every object of the folder, by file name. The namespace beside them is a template of the chart: TypeScript builds its own. */
export function readCustomResources(folder: string = FOLDER): KubeObject[] {
  const files = readdirSync(folder)
    .filter((name) => name.endsWith('.yaml') && name !== 'namespace.yaml')
    .toSorted();
  const objects = files.flatMap((name) =>
    parseAllDocuments(readFileSync(join(folder, name), 'utf8')).map((document) => {
      const [error] = document.errors;
      if (error !== undefined) {
        throw new MeshError('MESH_CONFIG_INVALID', `Cannot read "${name}": ${error.message}`);
      }
      return document.toJS() as KubeObject;
    }),
  );
  return objects.filter(({ kind }) => kind === 'CustomResourceDefinition');
}
