#!lua flags=allow-oom
-- uses events
-- The store lost all it had, and has the crew back: results that a worker had by then are written, marked `recovered`.
-- What runs were made of is lost; a step's result is on the results stream only. At most 500 a call.
-- KEYS: fixed; then per item: task, agent events
-- ARGV: uid, since when the store knew the crew when these were claimed (`born`), n; per item: id, agent, outcome, ttl ms,
--   attempt, result
-- -> {'gone'} | {'ok', per item: applied | stale (it isn't lost, or has been submitted again since)}
if is_gone(ARGV[1]) then return { 'gone' } end
local outcomes, at, key = { 'ok' }, 4, FIXED + 1
local is_lost = redis.call('HGET', META, 'born') ~= ARGV[2]
for _ = 1, tonumber(ARGV[3]) do
  local id, agent, state, ttl, attempt, result = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5]
  local run_id, record, feed = string.match(id, '^([^/]+)/'), KEYS[key], KEYS[key + 1]
  at, key = at + 6, key + 2
  if not is_lost or redis.call('EXISTS', record) == 1 then
    outcomes[#outcomes + 1] = 'stale'
  else
    if not run_id then
      redis.call('HSET', record, 'state', state, 'agent', agent, 'result', result, 'finished', now, 'attempt', attempt,
        'recovered', '1')
      redis.call('PEXPIRE', record, ttl)
      redis.call('ZADD', IDS, now_ms + tonumber(ttl), id)
    end
    redis.call('XADD', RESULTS, '*', 'kind', run_id and 'step' or 'task', 'id', id, 'state', state,
      'result', #result <= ALONG and result or '', 'recovered', '1')
    event(state == 'completed' and 'task_completed' or 'task_failed',
      about(agent, id, run_id, 'recovered: the store had lost it'), feed)
    outcomes[#outcomes + 1] = 'applied'
  end
end
return outcomes
