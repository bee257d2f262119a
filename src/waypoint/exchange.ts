/**
 * One request through the waypoint, from its head to its record: understood once, decided, sent to an endpoint, tried
 * again where that is harmless, and answered.
 *
 * - A response that was begun and cannot be completed is reset towards the client, never ended (F7).
 * - Bytes pass through uncopied; what one side cannot take holds the other side's window back.
 * - Exactly one record is reported, whatever happens.
 */

import type { Timer } from '../base/clock.ts';
import type { WatchedDeadline } from '../base/deadline-sweep.ts';
import type { MeshError, ResponseFlag } from '../base/errors.ts';
import type { Place } from '../base/roster.ts';
import { workloadIdentity } from '../core/workload.ts';
import { H2_ERROR, type HeaderList } from '../http/h2/contract.ts';
import type { HttpStream, HttpStreamHandlers } from '../http/http-stream.ts';
import { chooseAffinity, drawBy, type AffinityChoice } from './affinity.ts';
import {
  Attempt,
  mayHaveCrossedClose,
  type AttemptOwner,
  type AttemptTarget,
  type TryLimit,
} from './attempt.ts';
import type { RouteChoice } from './compiled-routes.ts';
import type { WaypointContext } from './context.ts';
import type { Destination, Visit } from './destination.ts';
import * as errors from './exchange-errors.ts';
import { ExchangeRecord } from './exchange-record.ts';
import { enterDestination, passesFreely, passPlan, type GiveUp } from './gate.ts';
import { GrpcMessages } from './grpc-messages.ts';
import { judgeRequest, rejudgeRequest, type Verdict } from './guard.ts';
import { createLocalAnswer, sendLocalAnswer, type LocalAnswer } from './local-answer.ts';
import { startMirrors, type Mirrors } from './mirror.ts';
import { RequestBody } from './request-body.ts';
import { readRequest, upstreamHeaders, type HttpRequest } from './request.ts';
import type { Permit } from './request-limiter.ts';
import { failureOutcome, responseOutcome, type AttemptOutcome } from './retry-policy.ts';
import { headerValue } from './route-candidate.ts';
import { answerHeaders, routeRequest, upstreamHttp, type Forward } from './routing.ts';
import type { ServedConnection } from './served-connection.ts';
import type { RequestPlan } from './traffic.ts';

/** New connections in place of ones that had been closed while our request was on its way. */
const STALE_MAX = 2;
const NOBODY: ReadonlySet<string> = new Set();

export class Exchange implements HttpStreamHandlers, AttemptOwner, WatchedDeadline {
  readonly #context: WaypointContext;
  readonly #connection: ServedConnection;
  readonly #client: HttpStream;
  readonly #headers: HeaderList;
  readonly #version: 1 | 2;
  readonly #startMs: number;
  readonly #record: ExchangeRecord;
  readonly #body: RequestBody;
  #request: HttpRequest | undefined;
  #messages: GrpcMessages | undefined;
  #verdict: Verdict | undefined;
  #choice: RouteChoice | undefined;
  #plan: RequestPlan | undefined;
  #routed: Forward | undefined;
  /** What is known about where it goes; undefined: the pod that was addressed. */
  #destination: Destination | undefined;
  #affinity: AffinityChoice | undefined;
  #permit: Permit | undefined;
  #mirrors: Mirrors | undefined;
  #waiting: GiveUp | undefined;
  #requestTimer: Timer | undefined;
  #attempt: Attempt | undefined;
  #tried: Set<string> | undefined;
  #staleCount = 0;
  #requestEnded: boolean;
  #status = 0;
  #headSent = false;
  #finished = false;
  #switched = false;
  /** Response bytes that the upstream's window has not got back. */
  #owedBytes = 0;
  #lastTarget: AttemptTarget | undefined;
  /** Bytes have passed since `#activeMs`. */
  #moved = false;
  #activeMs: number;
  #watched: Place | undefined;
  #running: Place | undefined;

  constructor(
    context: WaypointContext,
    connection: ServedConnection,
    client: HttpStream,
    headers: HeaderList,
    endStream: boolean,
    version: 1 | 2,
  ) {
    this.#context = context;
    this.#connection = connection;
    this.#client = client;
    this.#headers = headers;
    this.#version = version;
    this.#requestEnded = endStream;
    this.#startMs = context.clock.nowMs();
    this.#activeMs = this.#startMs;
    this.#record = new ExchangeRecord(connection, version, context.clock.wallMs());
    this.#body = new RequestBody(client, true);
    client.setHandlers(this);
  }

  start(): void {
    const context = this.#context;
    const record = this.#record;
    this.#watched = context.deadlines.add(this);
    this.#running = context.running.add(this);
    const read = readRequest(this.#headers, this.#version, this.#connection.client);
    if (!read.ok) {
      record.received(this.#headers);
      this.#refuse(read.error, 400, read.error.message);
      return;
    }
    const { request, requestId, userAgent } = read.value;
    this.#request = request;
    if (request.isGrpc) {
      const { reporter } = context;
      this.#messages = new GrpcMessages((sent, got) => reporter.messages(record, sent, got));
    }
    record.asked(request);
    record.userAgent = userAgent;
    record.requestId = requestId === '' ? context.requestIds.next() : requestId;
    record.trace = context.reporter.begin(this.#headers);
    if (this.#requestEnded) this.#body.end(undefined);
    // What an HTTP/2 client takes back in the read that asked for it is never routed nor sent (T60).
    if (this.#version === 1) this.#judge(request);
    else process.nextTick(() => this.#judgeLater(request));
  }

  #judgeLater(request: HttpRequest): void {
    if (this.#finished) return;
    // As the session does for what is served within its call.
    try {
      this.#judge(request);
    } catch (cause) {
      this.#abort(errors.notServed(cause));
    }
  }

  #judge(request: HttpRequest): void {
    const verdict = judgeRequest(this.#context.guard, this.#connection, request);
    if (verdict instanceof Promise) void verdict.then((later) => this.#judged(later));
    else this.#judged(verdict);
  }

  #judged(verdict: Verdict): void {
    if (this.#finished) return;
    this.#verdict = verdict;
    this.#request = verdict.request;
    this.#record.judged(verdict);
    if (verdict.refusal === undefined) this.#match(verdict.request);
    else this.#answer(verdict.refusal.error, verdict.refusal.answer);
  }

  /** A policy has changed: what no longer passes ends. */
  recheck(): void {
    if (this.#verdict === undefined || this.#finished) return;
    const { guard } = this.#context;
    const denied = rejudgeRequest(guard, this.#connection, this.#verdict, this.#lastTarget);
    if (denied === undefined) return;
    if (this.#headSent) this.#abort(denied);
    else this.#refuse(denied, 403, 'access denied');
  }

  /** Asked at every look of the sweep, which learns only then that bytes have passed: they cost no look at the clock. */
  get deadlineMs(): number {
    if (this.#moved) {
      this.#moved = false;
      this.#activeMs = this.#context.deadlines.nowMs();
    }
    return this.#activeMs + (this.#idleOfPlan() ?? this.#context.idleTimeoutMs);
  }

  onDeadline(): void {
    const waits = this.#owedBytes > 0 || this.#body.waits || this.#halfOver;
    if (this.#headSent && !waits && this.#idleOfPlan() === undefined) {
      this.#moved = true;
      return;
    }
    const message = 'The request was given up: no bytes either way for too long';
    this.#expire('idle', message, 'stream idle timeout');
  }

  /** Of a switched connection one side has ended, and the other may never notice. */
  get #halfOver(): boolean {
    return this.#switched && (this.#requestEnded || this.#attempt?.over === true);
  }

  // The client's side.

  onHeaders(headers: HeaderList): void {
    this.#endRequest(headers);
  }

  onData(chunk: Buffer): void {
    this.#moved = true;
    this.#messages?.pushRequest(chunk);
    this.#mirrors?.push(chunk);
    this.#body.push(chunk);
  }

  onEnd(): void {
    this.#endRequest(undefined);
  }

  onReset(error: MeshError): void {
    if (this.#finished) return;
    this.#giveUp();
    this.#finish('RESET', error);
  }

  onDrain(): void {
    const owed = this.#owedBytes;
    this.#owedBytes = 0;
    if (owed > 0) this.#attempt?.stream?.consume(owed);
  }

  // The upstream's side.

  onOpen(attempt: Attempt, stream: HttpStream): void {
    const times = this.#plan?.times;
    attempt.limit(this.#context.clock, times?.perTryMs, 'per_try', times?.perTryUntil);
    this.#body.attach(stream, attempt.headOnly);
  }

  onInformational(headers: HeaderList): void {
    if (!this.#headSent) this.#client.sendHeaders(headers, false);
  }

  onResponse(attempt: Attempt, headers: HeaderList, endStream: boolean): void {
    this.#moved = true;
    this.#status = Number(headers[0]?.[1] ?? 0);
    if (this.#messages !== undefined) this.#record.grpcEnded(headers);
    attempt.visit?.answered();
    if (this.#maybeRetryResponse(attempt, headers)) return;
    this.#record.upstreamMs = this.#context.clock.nowMs() - this.#startMs;
    this.#messages?.answered(headers);
    this.#body.settle();
    this.#headSent = true;
    this.#switched = this.#status === 101;
    const issue = this.#affinity?.issue;
    const all = issue === undefined ? headers : [...headers, issue];
    const backend = this.#routed?.backend;
    this.#sendHeaders(answerHeaders(this.#choice, backend, this.#request, all), endStream);
  }

  onResponseData(attempt: Attempt, chunk: Buffer): void {
    this.#moved = true;
    this.#record.responseBytes += chunk.length;
    this.#messages?.pushResponse(chunk);
    if (this.#client.write(chunk) && this.#owedBytes === 0) attempt.stream?.consume(chunk.length);
    else this.#owedBytes += chunk.length;
  }

  onResponseTrailers(_: Attempt, headers: HeaderList): void {
    if (this.#messages !== undefined) this.#record.grpcEnded(headers);
    this.#sendHeaders(headers, true);
  }

  onResponseEnd(attempt: Attempt): void {
    attempt.visit?.end(this.#succeeded());
    // Read to its end: its connection serves others while the last bytes still wait for this client.
    this.onDrain();
    this.#client.end();
    if (this.#switched && !this.#requestEnded) return;
    this.#completed();
  }

  onFailed(attempt: Attempt, error: MeshError): void {
    this.#body.detach();
    const { unsent } = attempt;
    const outcome = failureOutcome(error, unsent);
    if (!this.#headSent && this.#isStale(attempt, error)) {
      this.#staleCount++;
      attempt.visit?.end(undefined);
      if (attempt.visit === undefined) this.#try(attempt.target, undefined, true);
      else this.#visit(true);
      return;
    }
    // A limit of ours says nothing about the endpoint, and is not got around by asking again.
    const limited = error.code === 'MESH_LIMIT_EXCEEDED';
    attempt.visit?.end(limited ? undefined : false);
    if (this.#headSent) {
      this.#abort(error);
      return;
    }
    if (!limited && this.#maybeRetry(attempt, outcome)) return;
    const late = error.code === 'MESH_CONNECT_TIMEOUT';
    this.#refuse(error, late ? 504 : unsent ? 503 : 502, 'the upstream failed before its response');
  }

  onLate(attempt: Attempt, limit: TryLimit): void {
    this.#context.resilience.timeouts.add(1, [...(this.#destination?.label ?? ['']), limit]);
    this.#body.detach();
    if (this.#headSent) return this.#abort(errors.upstreamLate(attempt.target.address));
    const outcome: AttemptOutcome =
      limit === 'connect' ? { kind: 'connect-failure' } : { kind: 'timeout' };
    if (this.#maybeRetry(attempt, outcome)) return;
    this.#refuse(errors.upstreamLate(attempt.target.address), 504, 'upstream timeout');
  }

  onUpstreamDrain(): void {
    this.#body.drained();
  }

  #endRequest(trailers: HeaderList | undefined): void {
    if (this.#requestEnded) return;
    this.#requestEnded = true;
    this.#mirrors?.end(trailers);
    this.#body.end(trailers);
    if (this.#switched && this.#attempt?.over === true) this.#completed();
  }

  /** Never beyond the budget, or a crash would make each request of the moment two. */
  #isStale(attempt: Attempt, error: MeshError): boolean {
    if (!this.#body.replayable || this.#staleCount >= STALE_MAX) return false;
    if (!mayHaveCrossedClose(attempt, error, this.#request?.method ?? '')) return false;
    const allowance = this.#destination?.allowance;
    return allowance === undefined || allowance.takeRetry(this.#context.clock.nowMs());
  }

  #maybeRetryResponse(attempt: Attempt, headers: HeaderList): boolean {
    const plan = this.#plan;
    // Every answer passes here; few policies look at any below 500.
    if (plan === undefined || plan.retries.settings.attempts === 0) return false;
    const grpcStatus = this.#record.knownGrpcStatus;
    if (this.#status < 400 && grpcStatus === undefined) return false;
    const wallMs = this.#context.clock.wallMs();
    const outcome = responseOutcome(this.#status, grpcStatus, headers, wallMs);
    return this.#maybeRetry(attempt, outcome);
  }

  /** True: another try is coming, or the answer has been given. */
  #maybeRetry(attempt: Attempt, outcome: AttemptOutcome): boolean {
    const plan = this.#plan;
    const destination = this.#destination;
    const { clock, resilience } = this.#context;
    if (plan === undefined || destination === undefined || !this.#body.replayable) return false;
    const nowMs = clock.nowMs();
    const { requestMs } = plan.times;
    const leftMs =
      requestMs === undefined ? Number.POSITIVE_INFINITY : this.#startMs + requestMs - nowMs;
    const made = this.#record.attempts - this.#staleCount;
    const decision = plan.retries.next(outcome, made, destination.allowance, nowMs, leftMs);
    if (decision.kind === 'stop') return false;
    attempt.visit?.end(outcome.kind === 'response' ? this.#succeeded() : false);
    attempt.cancel();
    this.#body.detach();
    this.#record.grpcStatus = -1;
    if (decision.kind === 'over-budget') {
      resilience.retries.add(1, [...destination.label, 'over_budget']);
      this.#refuse(errors.retryBudgetSpent(destination.label[0]), 503, 'retry budget exhausted');
      return true;
    }
    resilience.retries.add(1, [...destination.label, 'retried']);
    const timer = clock.after(decision.delayMs, () => {
      this.#waiting = undefined;
      this.#visit(false);
    });
    this.#waiting = () => timer.cancel();
    return true;
  }

  #succeeded(): boolean | undefined {
    return this.#destination?.isFailure(this.#status, this.#record.knownGrpcStatus) === false;
  }

  /** The rule that serves it; then what its policy demands before it may go on. */
  #match(request: HttpRequest): void {
    const { addressed, client } = this.#connection;
    const { clock, plans, traffic } = this.#context;
    const { service, port } = addressed;
    if (service === undefined) {
      this.#route(request);
      return;
    }
    const configured = plans.port(service.key, port);
    const routes = configured && plans.routes(configured, client.namespace);
    if (routes !== undefined && !routes.isEmpty) {
      this.#choice = routes.match(request);
      if (this.#choice === undefined) {
        this.#refuse(undefined, 404, 'no route matches');
        return;
      }
      this.#record.routed(this.#choice.rule);
    }
    const plan = traffic.plan(service.key, port, this.#choice?.rule);
    this.#plan = plan;
    this.#body.keepAtMost(plan.retries.settings.replayBytesMax);
    const { requestMs } = plan.times;
    if (requestMs !== undefined) {
      this.#requestTimer = clock.after(requestMs, () =>
        this.#expire('request', 'The request ran out of time', 'request timeout'),
      );
    }
    if (passesFreely(plan)) {
      this.#route(request);
      return;
    }
    let settled = false;
    const giveUp = passPlan(this.#context, plan, service.key, request, (refusal) => {
      settled = true;
      this.#waiting = undefined;
      if (this.#finished) return;
      if (refusal === undefined) this.#route(request);
      else this.#answer(refusal.error, refusal.answer);
    });
    if (!settled) this.#waiting = giveUp;
  }

  #route(request: HttpRequest): void {
    const { random, traffic } = this.#context;
    const affinity = this.#plan?.affinity;
    const session = affinity && chooseAffinity(affinity, request.headers, request.clientIp, random);
    const routing = routeRequest(
      this.#choice,
      request,
      this.#connection.addressed,
      drawBy(session, random),
    );
    if (routing.kind === 'answer') {
      this.#answer(routing.error, routing.answer);
      return;
    }
    const { service, port } = routing;
    const destination = service === undefined ? undefined : traffic.destination(service, port);
    this.#routed = routing;
    this.#destination = destination;
    this.#record.backend = destination?.name ?? '';
    this.#mirrors = startMirrors(this.#context, this.#connection, this.#choice, routing, {
      request,
      clientVersion: this.#version,
      requestId: this.#record.requestId,
      trace: this.#record.trace?.headers,
      endStream: this.#body.empty,
    });
    if (this.#mirrors !== undefined) this.#body.copyTo(this.#mirrors);
    if (destination === undefined) {
      const target = this.#connection.addressedWorkload();
      if (target === undefined) this.#noEndpoint();
      else this.#try(target, undefined, false);
      return;
    }
    destination.allowance.countRequest(destination.usedMs);
    this.#affinity = session ?? destination.affinity(request.headers, request.clientIp);
    this.#permit = destination.limiter.tryEnter();
    if (this.#permit !== undefined) {
      this.#visit(false);
      return;
    }
    let settled = false;
    const giveUp = enterDestination(this.#context, destination, request, (result) => {
      settled = true;
      this.#waiting = undefined;
      if ('release' in result) {
        this.#permit = result;
        if (this.#finished) result.release();
        else this.#visit(false);
      } else if (!this.#finished) this.#answer(result.error, result.answer);
    });
    if (!settled) this.#waiting = giveUp;
  }

  /** Another endpoint than those that were tried, while there is one. `fresh`: on a new connection. */
  #visit(fresh: boolean): void {
    const destination = this.#destination;
    if (destination === undefined || this.#finished) return;
    const last = this.#lastTarget;
    if (last !== undefined && !fresh) (this.#tried ??= new Set()).add(last.workload.uid);
    const { traffic } = this.#context;
    const visit = traffic.visit(destination, this.#affinity?.hash, this.#tried ?? NOBODY);
    if (visit === undefined) this.#noEndpoint();
    else this.#try(visit.target, visit, fresh);
  }

  #noEndpoint(): void {
    this.#refuse(errors.noEndpoint(this.#routed?.service), 503, 'no healthy upstream');
  }

  #try(target: AttemptTarget, visit: Visit | undefined, fresh: boolean): void {
    const request = this.#request;
    const routed = this.#routed;
    if (request === undefined || routed === undefined) return;
    const { clock, upstreams } = this.#context;
    const connection = this.#connection;
    const denied = connection.denial(target.workload, target.address);
    if (denied !== undefined) {
      visit?.end(undefined);
      this.#refuse(denied, 403, 'access denied');
      return;
    }
    this.#lastTarget = target;
    const record = this.#record;
    record.sentTo(target, connection.destinationPeer(target.workload));
    const trace = record.trace?.beginTry(target.address, workloadIdentity(target.workload));
    const attempt = new Attempt(this, target, visit, trace);
    this.#attempt = attempt;
    const upgrades = headerValue(request.headers, 'upgrade') !== undefined;
    attempt.start(upstreams, {
      headers: upstreamHeaders(request, routed.request, record.requestId, trace?.headers),
      endStream: this.#body.empty,
      http: upgrades ? 'h1' : upstreamHttp(this.#context, routed, request, this.#version),
      fresh,
      admitConnection: this.#destination?.connectionGate,
    });
    if (attempt.unsent) attempt.limit(clock, this.#plan?.times.connectMs, 'connect');
  }

  #expire(kind: 'request' | 'idle', message: string, text: string): void {
    // A WebSocket is a connection, no longer a request.
    if (this.#finished || (this.#switched && kind === 'request')) return;
    const { resilience } = this.#context;
    const label = this.#destination?.label ?? [''];
    resilience.timeouts.add(1, [...label, kind]);
    const error = errors.expired(message);
    if (this.#headSent) this.#abort(error);
    else this.#refuse(error, 504, text);
  }

  #sendHeaders(headers: HeaderList, endStream: boolean): void {
    try {
      this.#client.sendHeaders(headers, endStream);
    } catch (error) {
      this.#abort(errors.badResponse(error));
    }
  }

  #refuse(error: MeshError | undefined, status: number, text: string): void {
    this.#answer(error, createLocalAnswer(status, text, this.#request?.isGrpc === true));
  }

  /** Answers instead of an upstream, and ends. */
  #answer(error: MeshError | undefined, answer: LocalAnswer): void {
    this.#giveUp();
    this.#body.discard();
    this.#status = answer.status;
    this.#record.grpcStatus = answer.grpcStatus === '' ? -1 : Number(answer.grpcStatus);
    this.#headSent = true;
    this.#record.responseBytes += sendLocalAnswer(this.#client, answer, this.#headers);
    this.#completed(error);
  }

  /** The answer is out; what is left of the request is nobody's. */
  #completed(error?: MeshError): void {
    if (this.#finished) return;
    this.#finish(error === undefined ? '-' : (error.flag ?? 'RESET'), error);
    // Not reset: that would drop what of the answer still waits for the client's window. And always, for what the
    // upstream has not taken yet is owed to the client's connection, which may go on.
    this.#body.discard();
  }

  /** The response cannot be completed: the client must see that. */
  #abort(error: MeshError): void {
    if (this.#finished) return;
    this.#giveUp();
    this.#finish(error.flag ?? 'RESET', error);
    this.#client.reset(H2_ERROR.INTERNAL_ERROR);
  }

  /** Nobody waits for the try under way any more. */
  #giveUp(): void {
    this.#waiting?.();
    this.#waiting = undefined;
    const attempt = this.#attempt;
    if (attempt === undefined || attempt.over) return;
    attempt.visit?.end(undefined);
    attempt.cancel('MESH_ABORTED');
  }

  #idleOfPlan(): number | undefined {
    // A WebSocket is a connection, no longer a request.
    return this.#switched ? undefined : this.#plan?.times.idleMs;
  }

  #finish(flag: ResponseFlag, error: MeshError | undefined): void {
    if (this.#finished) return;
    this.#finished = true;
    const { clock, reporter } = this.#context;
    this.#watched?.leave();
    this.#running?.leave();
    this.#requestTimer?.cancel();
    this.#permit?.release();
    this.#mirrors?.abort();
    this.#messages?.report();
    // Answered before it had all of the request, which now never ends.
    if (!this.#requestEnded) this.#attempt?.stream?.reset(H2_ERROR.CANCEL);
    const record = this.#record;
    record.failed(flag, error);
    record.status = this.#headSent ? this.#status : 0;
    record.requestBytes = this.#body.bytes;
    record.durationMs = clock.nowMs() - this.#startMs;
    reporter.ended(record);
  }
}
