/** Reads GatewayClass, XMesh, Gateway and ReferenceGrant. Listeners of other gateways than waypoints are read alike. */

import {
  CONTROLLER_NAME,
  normalGroup,
  type AllowedNamespaces,
  type Gateway,
  type GatewayClass,
  type GatewayListener,
  type MeshDeclaration,
  type ReferenceGrant,
} from '../gateway-objects.ts';
import { EVERYTHING } from '../labels.ts';
import type { ObjectMeta } from '../objects.ts';
import type { Fields } from './fields.ts';
import { readGeneration, readSelector, readStatusList } from './metadata.ts';

const LISTENERS_MAX = 64;
const GRANT_ENTRIES_MAX = 256;

export function readGatewayClass(root: Fields, meta: ObjectMeta): GatewayClass {
  const controllerName = root.object('spec')?.string('controllerName') ?? '';
  return { kind: 'GatewayClass', meta, generation: readGeneration(root), controllerName };
}

export function readMesh(root: Fields, meta: ObjectMeta): MeshDeclaration {
  const spec = root.object('spec');
  const controllerName = spec?.string('controllerName') ?? '';
  const hasParameters = spec?.has('parametersRef') ?? false;
  return { kind: 'XMesh', meta, generation: readGeneration(root), controllerName, hasParameters };
}

/** Whether the status has entries of ours. */
export function isStated(root: Fields, list: 'parents' | 'ancestors'): boolean {
  return readStatusList(root, list).some((entry) => entry['controllerName'] === CONTROLLER_NAME);
}

export function readGateway(root: Fields, meta: ObjectMeta): Gateway {
  const spec = root.object('spec');
  const className = spec?.string('gatewayClassName') ?? '';
  if (className === '') (spec ?? root).problem('gatewayClassName', 'is missing');
  const infrastructure = spec?.object('infrastructure');
  return {
    kind: 'Gateway',
    meta,
    generation: readGeneration(root),
    uid: root.object('metadata')?.string('uid') ?? '',
    className,
    listeners: (spec?.objects('listeners', LISTENERS_MAX) ?? []).map(readListener),
    infrastructureLabels: infrastructure?.stringMap('labels') ?? new Map(),
    infrastructureAnnotations: infrastructure?.stringMap('annotations') ?? new Map(),
  };
}

function readListener(listener: Fields): GatewayListener {
  return {
    name: listener.string('name'),
    port: listener.integer('port', 1, 65_535) ?? 0,
    protocol: listener.string('protocol'),
    allowed: readAllowed(listener.object('allowedRoutes')?.object('namespaces')),
  };
}

function readAllowed(namespaces: Fields | undefined): AllowedNamespaces {
  const from = namespaces?.oneOf('from', ['All', 'Selector', 'Same', 'None'] as const) ?? 'Same';
  if (from !== 'Selector') return from === 'All' ? 'All' : 'Same';
  const selector = namespaces?.object('selector');
  if (selector === undefined) namespaces?.problem('selector', 'is needed with from: Selector');
  return selector === undefined ? EVERYTHING : readSelector(selector, true);
}

export function readReferenceGrant(root: Fields, meta: ObjectMeta): ReferenceGrant {
  const spec = root.object('spec');
  const entries = (key: string): Fields[] => spec?.objects(key, GRANT_ENTRIES_MAX) ?? [];
  return {
    kind: 'ReferenceGrant',
    meta,
    from: entries('from').map((from) => ({
      group: normalGroup(from.string('group')),
      kind: from.string('kind'),
      namespace: from.string('namespace'),
    })),
    to: entries('to').map((to) => ({
      group: normalGroup(to.string('group')),
      kind: to.string('kind'),
      name: to.string('name'),
    })),
  };
}
