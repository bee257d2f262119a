/** The few fields of Kubernetes objects that commands read. Everything may be missing: another version may have sent it. */

export interface Meta {
  readonly name?: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
  readonly generation?: number;
}

export interface Condition {
  readonly type?: string;
  readonly status?: string;
  readonly reason?: string;
  readonly message?: string;
}

export interface KubeItem {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata?: Meta;
  readonly spec?: Readonly<Record<string, unknown>>;
  readonly status?: Readonly<Record<string, unknown>>;
  readonly [field: string]: unknown;
}

interface ContainerStatus {
  readonly restartCount?: number;
  readonly state?: { readonly waiting?: { readonly reason?: string; readonly message?: string } };
}

export interface PodItem extends KubeItem {
  readonly spec?: Readonly<Record<string, unknown>> & {
    readonly nodeName?: string;
    readonly serviceAccountName?: string;
    readonly hostNetwork?: boolean;
  };
  readonly status?: Readonly<Record<string, unknown>> & {
    readonly phase?: string;
    readonly podIP?: string;
    readonly conditions?: readonly Condition[];
    readonly containerStatuses?: readonly ContainerStatus[];
  };
}

export function nameOf(item: KubeItem): string {
  return item.metadata?.name ?? '';
}

export function namespaceOf(item: KubeItem): string {
  return item.metadata?.namespace ?? '';
}

export function labelOf(item: KubeItem, key: string): string | undefined {
  return item.metadata?.labels?.[key];
}

/** Milliseconds since it was made. */
export function ageOf(item: KubeItem, nowMs: number): number {
  return nowMs - Date.parse(item.metadata?.creationTimestamp ?? '');
}

export function isPodReady({ status, metadata }: PodItem): boolean {
  if (metadata?.deletionTimestamp !== undefined) return false;
  return (
    status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') === true
  );
}

export function restartsOf({ status }: PodItem): number {
  return (status?.containerStatuses ?? []).reduce(
    (sum, { restartCount = 0 }) => sum + restartCount,
    0,
  );
}

/** Why its containers do not run, in the kubelet's words. */
export function waitingReasonOf({ status }: PodItem): string | undefined {
  for (const { state } of status?.containerStatuses ?? []) {
    const { reason, message } = state?.waiting ?? {};
    if (reason !== undefined) return message === undefined ? reason : `${reason}: ${message}`;
  }
  return undefined;
}
