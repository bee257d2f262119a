/** `meshctl install`: prints everything that makes up the mesh, for review or for `kubectl apply -f -`, or applies it. */

import { parse, stringify } from 'yaml';

import { MeshError } from '../../base/errors.ts';
import type { Cluster } from '../cluster.ts';
import { baseObjects, meshObjects } from '../install/objects.ts';
import { parseSetting, readValues, type InstallValues } from '../install/values.ts';
import type { ApplyArgs } from './install-apply.ts';
import { EXIT, type CommandIo, type ExitCode } from '../io.ts';

export interface InstallArgs {
  readonly files: readonly string[];
  readonly settings: readonly string[];
  readonly ha: boolean;
  /** Only the namespace and the CRDs, or all but them. */
  readonly part: 'all' | 'base' | 'mesh';
  readonly output: 'yaml' | 'json';
  readonly version: string;
  /** Undefined: print. */
  readonly apply: ApplyArgs | undefined;
}

const HA_REPLICAS = 2;

async function readValueFile(path: string, io: CommandIo): Promise<unknown> {
  const text = await io.readFile(path).catch((error: unknown) => {
    const reason = error instanceof Error ? error.message : String(error);
    throw new MeshError('MESH_USAGE', `Cannot read values from "${path}": ${reason}`);
  });
  try {
    return parse(text) as unknown;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new MeshError('MESH_USAGE', `Cannot read values from "${path}": ${reason}`);
  }
}

async function valuesOf(args: InstallArgs, io: CommandIo): Promise<InstallValues> {
  const files = await Promise.all(args.files.map((path) => readValueFile(path, io)));
  const ha = args.ha ? [{ controller: { replicas: HA_REPLICAS } }] : [];
  return readValues(...ha, ...files, ...args.settings.map(parseSetting));
}

export async function install(
  args: InstallArgs,
  io: CommandIo,
  connect: () => Promise<Cluster>,
): Promise<ExitCode> {
  const values = await valuesOf(args, io);
  const objects = [
    ...(args.part === 'mesh' ? [] : baseObjects(args.version)),
    ...(args.part === 'base' ? [] : meshObjects(values, args.version)),
  ];
  if (args.apply !== undefined) {
    const { applyObjects } = await import('./install-apply.ts');
    return applyObjects(objects, args.apply, io, await connect());
  }
  if (args.output === 'json') {
    io.out(`${JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects }, null, 2)}\n`);
  } else {
    const options = { lineWidth: 0, aliasDuplicateObjects: false };
    io.out(objects.map((object) => `---\n${stringify(object, options)}`).join(''));
  }
  return EXIT.good;
}
