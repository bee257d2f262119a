/**
 * One service with its routes → what its waypoint routes by (`core/route.ts`), and what is to be said of each
 * route. Pure: the services that exist and what may be referred to are asked of `Lookup`.
 *
 * - A route of the service's own namespace is for every client; another's is for clients of its namespace alone.
 * - A backend that cannot be used stays in its rule, so that its share gets 500; one of weight 0 harms nobody.
 * - A rule with a filter nobody knows, or with filters that contradict each other, answers 500 as a whole.
 */

import type {
  Backend,
  ConnectionRule,
  HttpFilter,
  HttpRule,
  RouteSet,
  WaypointPort,
  WaypointService,
  WeightedBackend,
} from '../core/route.ts';
import { serviceKey } from '../core/workload.ts';
import type {
  BackendRef,
  ParentRef,
  RouteFilter,
  RouteObject,
  RouteObjectRule,
  WeightedRef,
} from './gateway-objects.ts';
import type { ServiceObject, ServiceObjectPort } from './objects.ts';
import { isServiceParent } from './route-registry.ts';
import { serviceName, type ServiceName } from './service-registry.ts';
import { serviceHostname, serviceObjectKey } from './service-view.ts';

export interface Lookup {
  readonly clusterDomain: string;
  service(name: ServiceName): ServiceObject | undefined;
  isGranted(route: RouteObject, ref: BackendRef): boolean;
}

/** Reasons of Gateway API; the first problem of a kind is told. */
export interface RouteProblem {
  readonly reason: 'BackendNotFound' | 'RefNotPermitted' | 'InvalidKind' | 'UnsupportedValue';
  readonly message: string;
}

/** What one route is to one service it is attached to. */
export interface RouteOutcome {
  readonly route: RouteObject;
  /** Of references: the route is accepted all the same. */
  readonly refProblem: RouteProblem | undefined;
  /** Of values; `whole` when no rule is left. */
  readonly valueProblem: (RouteProblem & { readonly whole: boolean }) | undefined;
}

export interface CompiledService {
  readonly service: WaypointService;
  readonly outcomes: readonly RouteOutcome[];
}

interface MutableSet {
  readonly http: HttpRule[];
  readonly tls: ConnectionRule[];
  readonly tcp: ConnectionRule[];
}

export function compileService(
  service: ServiceObject,
  routes: Iterable<RouteObject>,
  lookup: Lookup,
): CompiledService {
  const ports = service.ports.map((port) => ({
    port,
    producer: emptySet(),
    consumers: new Map<string, MutableSet>(),
  }));
  const outcomes: RouteOutcome[] = [];
  for (const route of routes) {
    const compiled = compileRoute(route, service, lookup);
    for (const { port, producer, consumers } of ports) {
      if (!governs(route, service, port)) continue;
      const { namespace } = route.meta;
      if (namespace === service.meta.namespace) addTo(producer, compiled);
      else {
        const set = consumers.get(namespace) ?? emptySet();
        consumers.set(namespace, set);
        addTo(set, compiled);
      }
    }
    const { refProblem, valueProblem } = compiled;
    outcomes.push({ route, refProblem, valueProblem });
  }
  return {
    service: {
      key: serviceObjectKey(service, lookup.clusterDomain),
      ports: ports.map(({ port, producer, consumers }): WaypointPort => ({
        port: port.port,
        appProtocol: port.appProtocol,
        producer,
        consumers,
      })),
    },
    outcomes,
  };
}

function emptySet(): MutableSet {
  return { http: [], tls: [], tcp: [] };
}

function addTo(set: MutableSet, compiled: CompiledRoute): void {
  set.http.push(...compiled.set.http);
  set.tls.push(...compiled.set.tls);
  set.tcp.push(...compiled.set.tcp);
}

/** Through any of its references to the service. */
function governs(route: RouteObject, service: ServiceObject, port: ServiceObjectPort): boolean {
  const { namespace, name } = service.meta;
  return route.parents.some(
    (parent) =>
      isServiceParent(parent) &&
      parent.namespace === namespace &&
      parent.name === name &&
      meansPort(parent, port),
  );
}

/** `sectionName` of a Service is the name of a port. */
export function meansPort(parent: ParentRef, port: ServiceObjectPort): boolean {
  return (
    (parent.port === undefined || parent.port === port.port) &&
    (parent.sectionName === '' || parent.sectionName === port.name)
  );
}

interface CompiledRoute {
  readonly set: RouteSet;
  readonly refProblem: RouteProblem | undefined;
  readonly valueProblem: RouteOutcome['valueProblem'];
}

function compileRoute(route: RouteObject, parent: ServiceObject, lookup: Lookup): CompiledRoute {
  const compiler = new RouteCompiler(route, parent, lookup);
  const http: HttpRule[] = [];
  const connections: ConnectionRule[] = [];
  const isHttp = route.kind === 'HTTPRoute' || route.kind === 'GRPCRoute';
  for (const [index, rule] of route.rules.entries()) {
    if (isHttp) http.push(compiler.httpRule(rule, index));
    else connections.push(compiler.connectionRule(rule, index));
  }
  const { refProblem, valueProblem } = compiler;
  const whole = http.length > 0 && http.every(({ invalid }) => invalid !== '');
  return {
    set: {
      http,
      tls: route.kind === 'TLSRoute' ? connections : [],
      tcp: route.kind === 'TCPRoute' ? connections : [],
    },
    refProblem,
    valueProblem: valueProblem && { ...valueProblem, whole },
  };
}

/** Keeps the first problem of each kind. */
class RouteCompiler {
  refProblem: RouteProblem | undefined;
  valueProblem: RouteProblem | undefined;
  readonly #route: RouteObject;
  readonly #parent: ServiceObject;
  readonly #lookup: Lookup;

  constructor(route: RouteObject, parent: ServiceObject, lookup: Lookup) {
    this.#route = route;
    this.#parent = parent;
    this.#lookup = lookup;
  }

  httpRule(rule: RouteObjectRule, index: number): HttpRule {
    const invalid = this.#contradiction(rule);
    if (invalid !== '') this.valueProblem ??= { reason: 'UnsupportedValue', message: invalid };
    return {
      ...this.#origin(index),
      name: rule.name,
      hostnames: this.#route.hostnames,
      matches: rule.matches,
      filters: this.#filters(rule.filters),
      backends: rule.backends.map((entry) => this.#weighted(entry)),
      requestTimeoutMs: rule.requestTimeoutMs,
      backendRequestTimeoutMs: rule.backendRequestTimeoutMs,
      retry: rule.retry,
      sessionPersistence: rule.sessionPersistence,
      invalid,
    };
  }

  connectionRule(rule: RouteObjectRule, index: number): ConnectionRule {
    return {
      ...this.#origin(index),
      hostnames: this.#route.hostnames,
      backends: rule.backends.map((entry) => this.#weighted(entry)),
    };
  }

  #origin(index: number): Pick<HttpRule, 'route' | 'index'> {
    const { kind, meta } = this.#route;
    const { namespace, name, createdMs } = meta;
    return { route: { kind, namespace, name, createdMs }, index };
  }

  /** Why the rule cannot be followed; empty: it can. */
  #contradiction(rule: RouteObjectRule): string {
    const all = [...rule.filters, ...rule.backends.flatMap(({ filters }) => filters)];
    const unknown = all.find((filter) => filter.kind === 'unknown');
    if (unknown?.kind === 'unknown') return `filter "${unknown.type}" is not supported`;
    // Not to be skipped in silence, says the specification; here there is one target for all backends of a rule.
    const misplaced = rule.backends
      .flatMap(({ filters }) => filters)
      .find(({ kind }) => kind === 'redirect' || kind === 'rewrite' || kind === 'cors');
    if (misplaced !== undefined) return `filter "${misplaced.kind}" is not supported at a backend`;
    const count = (kind: RouteFilter['kind']): number =>
      rule.filters.filter((filter) => filter.kind === kind).length;
    if (count('redirect') > 0 && count('rewrite') > 0) return 'redirect and rewrite contradict';
    for (const kind of ['redirect', 'rewrite', 'cors'] as const) {
      if (count(kind) > 1) return `more than one ${kind} filter`;
    }
    const changed = rule.filters.find(
      (filter) =>
        (filter.kind === 'redirect' && filter.redirect.path?.kind === 'prefix') ||
        (filter.kind === 'rewrite' && filter.rewrite.path?.kind === 'prefix'),
    );
    const prefixed = rule.matches.every(({ path }) => path.kind === 'prefix');
    return changed === undefined || prefixed ? '' : 'ReplacePrefixMatch needs a PathPrefix match';
  }

  #weighted({ ref, weight, filters }: WeightedRef): WeightedBackend {
    return { backend: this.#backend(ref), weight, filters: this.#filters(filters) };
  }

  #filters(filters: readonly RouteFilter[]): HttpFilter[] {
    const found: HttpFilter[] = [];
    for (const filter of filters) {
      if (filter.kind === 'mirror') {
        const { backendRef, numerator, denominator } = filter;
        const backend = this.#backend(backendRef);
        found.push({ kind: 'mirror', mirror: { backend, numerator, denominator } });
      } else if (filter.kind !== 'unknown') {
        found.push(filter);
      }
    }
    return found;
  }

  #backend(ref: BackendRef): Backend {
    const { clusterDomain } = this.#lookup;
    const service = this.#lookup.service(serviceName(ref.namespace, ref.name));
    const problem = this.#problemOf(ref, service);
    if (problem !== undefined) this.refProblem ??= problem;
    const hostname =
      service === undefined
        ? `${ref.name}.${ref.namespace}.svc.${clusterDomain}`
        : serviceHostname(service, clusterDomain);
    return {
      service: serviceKey(ref.namespace, hostname),
      port: ref.port ?? 0,
      invalid: problem?.reason ?? '',
    };
  }

  #problemOf(ref: BackendRef, service: ServiceObject | undefined): RouteProblem | undefined {
    const { group, kind, namespace, name, port } = ref;
    const what = `${kind} "${namespace}/${name}"`;
    if (group !== '' || kind !== 'Service') {
      return { reason: 'InvalidKind', message: `${what} is no Service` };
    }
    if (!this.#isPermitted(ref)) {
      const message = `No ReferenceGrant of namespace "${namespace}" permits ${what}`;
      return { reason: 'RefNotPermitted', message };
    }
    if (service === undefined || service.type === 'ExternalName') {
      return { reason: 'BackendNotFound', message: `${what} does not exist` };
    }
    if (!service.ports.some((entry) => entry.port === port)) {
      return {
        reason: 'BackendNotFound',
        message: `${what} has no port ${port ?? '(none given)'}`,
      };
    }
    return undefined;
  }

  /** A consumer route may lead back to the service it is attached to: its clients could call it anyway. */
  #isPermitted(ref: BackendRef): boolean {
    if (ref.namespace === this.#route.meta.namespace) return true;
    const { namespace, name } = this.#parent.meta;
    if (ref.namespace === namespace && ref.name === name) return true;
    return this.#lookup.isGranted(this.#route, ref);
  }
}
