/**
 * What is said of Gateway API objects, put into the form of their status: whose entries are ours, which of the
 * others' stay, and where each object is.
 */

import {
  CONTROLLER_NAME,
  GATEWAY_GROUP,
  type ParentRef,
  type RouteObject,
} from '../controlplane/gateway-objects.ts';
import {
  classConditions,
  gatewayConditions,
  listenerConditions,
  MESH_FEATURES,
  meshConditions,
  type GatewayApiView,
  type GatewayState,
  type StatusCondition,
} from '../controlplane/gateway-status.ts';
import { WAYPOINT_BOUND } from '../controlplane/objects.ts';
import { listOf, mergedConditions, type Json, type StatusPatches } from './status-patches.ts';

const GROUP_PATH = `/apis/${GATEWAY_GROUP}`;
const EXPERIMENTAL_PATH = '/apis/gateway.networking.x-k8s.io/v1alpha1';
/** The schema's bound. */
const ANCESTORS_MAX = 16;

/** Of everything but the Gateways: those wait for what they are made of. */
export async function writeStatuses(
  view: GatewayApiView,
  patches: StatusPatches,
  now: string,
): Promise<void> {
  for (const object of view.classes) {
    const conditions = classConditions(object);
    const path = `${GROUP_PATH}/v1/gatewayclasses/${object.meta.name}`;
    await patches.write([path], JSON.stringify(conditions), (status) => ({
      conditions: mergedConditions(status['conditions'], conditions, now),
    }));
  }
  for (const object of view.meshes) {
    const conditions = meshConditions(object);
    const path = `${EXPERIMENTAL_PATH}/xmeshes/${object.meta.name}`;
    await patches.write([path], JSON.stringify(conditions), (status) => ({
      conditions: mergedConditions(status['conditions'], conditions, now),
      supportedFeatures: MESH_FEATURES.map((name) => ({ name })),
    }));
  }
  for (const { namespace, name, bound } of view.services) {
    const path = `/api/v1/namespaces/${namespace}/services/${name}`;
    await patches.write([path], JSON.stringify(bound ?? {}), (status) => ({
      conditions:
        bound === undefined
          ? listOf(status['conditions']).filter(({ type }) => type !== WAYPOINT_BOUND)
          : mergedConditions(status['conditions'], [bound], now),
    }));
  }
  for (const { route, parents } of view.routes) {
    const entries = parents.map(({ ref, conditions }) => [parentRefOf(ref), conditions] as const);
    await patches.write(routePaths(route), JSON.stringify(parents), (status) => ({
      parents: ownEntries(status['parents'], 'parentRef', entries, now),
    }));
  }
  for (const { namespace, name, ancestors } of view.backendPolicies) {
    const path = `${EXPERIMENTAL_PATH}/namespaces/${namespace}/xbackendtrafficpolicies/${name}`;
    const entries = ancestors.map(({ service, conditions }) => {
      return [{ group: '', kind: 'Service', namespace, name: service }, conditions] as const;
    });
    await patches.write([path], JSON.stringify(ancestors), (status) => ({
      ancestors: ownEntries(status['ancestors'], 'ancestorRef', entries, now).slice(
        0,
        ANCESTORS_MAX,
      ),
    }));
  }
}

/** `conflict`: what of somebody else stands in its way. */
export async function writeGatewayStatus(
  state: GatewayState,
  conflict: string,
  patches: StatusPatches,
  now: string,
): Promise<void> {
  const { gateway } = state;
  const { namespace, name } = gateway.meta;
  const conditions = gatewayConditions(state, conflict);
  const path = `${GROUP_PATH}/v1/namespaces/${namespace}/gateways/${name}`;
  const content = JSON.stringify([conditions, state.addresses, state.attachedRoutes]);
  await patches.write([path], content, (status) => ({
    addresses: state.addresses,
    conditions: mergedConditions(status['conditions'], conditions, now),
    listeners: gateway.listeners.map((listener) => ({
      name: listener.name,
      attachedRoutes: state.attachedRoutes,
      supportedKinds: [],
      conditions: mergedConditions(
        listOf(status['listeners']).find((entry) => entry['name'] === listener.name)?.[
          'conditions'
        ],
        listenerConditions(state, listener.name),
        now,
      ),
    })),
  }));
}

/** Those of others as they are, then ours: one for each reference, all of whose conditions are ours. */
function ownEntries(
  before: unknown,
  refField: 'parentRef' | 'ancestorRef',
  entries: readonly (readonly [ref: Json, conditions: readonly StatusCondition[]])[],
  now: string,
): Json[] {
  const known = listOf(before);
  const isOurs = (entry: Json): boolean => entry['controllerName'] === CONTROLLER_NAME;
  const ours = entries.map(([ref, conditions]) => {
    const same = known.find((entry) => isOurs(entry) && sameRef(entry[refField], ref));
    return {
      [refField]: ref,
      controllerName: CONTROLLER_NAME,
      conditions: mergedConditions(same?.['conditions'], conditions, now, true),
    };
  });
  return [...known.filter((entry) => !isOurs(entry)), ...ours];
}

const ROUTE_PLURALS: Readonly<Record<RouteObject['kind'], string>> = {
  HTTPRoute: 'httproutes',
  GRPCRoute: 'grpcroutes',
  TLSRoute: 'tlsroutes',
  TCPRoute: 'tcproutes',
};

/** Older channels serve some kinds in older versions only. */
function routePaths({ kind, meta }: RouteObject): string[] {
  const old = kind === 'TLSRoute' || kind === 'TCPRoute' ? ['v1alpha2'] : [];
  return ['v1', ...old].map(
    (version) =>
      `${GROUP_PATH}/${version}/namespaces/${meta.namespace}/${ROUTE_PLURALS[kind]}/${meta.name}`,
  );
}

function parentRefOf(ref: ParentRef): Json {
  const { group, kind, namespace, name, sectionName, port } = ref;
  return {
    group,
    kind,
    namespace,
    name,
    ...(sectionName === '' ? {} : { sectionName }),
    ...(port === undefined ? {} : { port }),
  };
}

function sameRef(a: unknown, b: Json): boolean {
  const fields = ['group', 'kind', 'namespace', 'name', 'sectionName', 'port'];
  return fields.every((field) => (a as Json | undefined)?.[field] === b[field]);
}
