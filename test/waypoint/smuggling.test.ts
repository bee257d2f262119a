import t from 'tap';

import { ask } from './ask.ts';
import { smugglingCorpus } from './origins/corpus.ts';
import { missingOrigin, ORIGINS, startOrigin } from './origins/origins.ts';
import { createRig } from './rig.ts';

/** `NODEMESH_CORPUS=all` sends every case to every origin; else each origin gets its share of them. */
const ALL = process.env['NODEMESH_CORPUS'] === 'all';
/** A second request that the waypoint itself sees, since the first one ended there, is no secret to anybody. */
const AT_ONCE = 8;
const WAIT_MS = 2000;

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

t.test('G14 no origin sees a request that the waypoint has not seen', async (t) => {
  const corpus = smugglingCorpus();
  t.ok(corpus.length >= 500, `${corpus.length} cases`);
  for (const [index, name] of ORIGINS.entries()) {
    await t.test(name, { skip: missingOrigin(name) ?? false }, async (t) => {
      const origin = await startOrigin(name);
      const rig = await createRig({
        apps: [{ name: 'app', ports: [origin.port], appProtocol: 'HTTP11' }],
      });
      t.teardown(async () => {
        await rig.close();
        origin.close();
      });
      const cases = ALL ? corpus : corpus.filter((_, at) => at % ORIGINS.length === index);
      let probes = 0;
      const run = async (
        { bytes, name: what }: (typeof cases)[number],
        at: number,
      ): Promise<void> => {
        const connection = await rig.open('app');
        connection.resume();
        const closed = new Promise<void>((resolve) => connection.on('close', () => resolve()));
        connection.write(Buffer.from(bytes, 'latin1'));
        connection.end();
        await Promise.race([closed, pause(WAIT_MS)]);
        connection.destroy();
        // Whoever comes next on the same upstream connection gets its own answer.
        const path = `/probe-${at}`;
        const { status, body } = await ask(await rig.open('app'), { path });
        probes++;
        if (status !== 200 || body !== path)
          t.fail(`${what}: the next client got ${status} ${body}`);
      };
      const queue = [...cases.entries()];
      await Promise.all(
        Array.from({ length: AT_ONCE }, async () => {
          for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
            await run(next[1], next[0]);
          }
        }),
      );
      const sent = rig.records
        .filter(({ attempts }) => attempts > 0)
        .map(({ method, path }) => `${method} ${path}`);
      const count = (list: readonly string[]): Map<string, number> => {
        const counts = new Map<string, number>();
        for (const item of list) counts.set(item, (counts.get(item) ?? 0) + 1);
        return counts;
      };
      const bySent = count(sent);
      const hidden: string[] = [];
      for (const [request, seen] of count(origin.seen)) {
        if (seen > (bySent.get(request) ?? 0))
          hidden.push(`${request}: seen ${seen}, sent ${bySent.get(request) ?? 0}`);
      }
      t.same(hidden, [], 'nothing but what was sent');
      t.equal(probes, cases.length);
    });
  }
});
