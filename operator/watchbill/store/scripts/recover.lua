#!lua flags=allow-oom
-- uses events
-- The store lost all it had, and has the crew back: results that a worker had by then are written, marked `recovered`.
-- What runs were made of is lost; a step's result is on the results stream only. At most 500 a call.
-- KEYS fixed, then for each item
--   task
--   agent_events
-- ARGV
--   1 uid
--   2 born                since when the store knew the crew when these were claimed
--   3 n                   items, each with
--     id
--     agent
--     outcome
--     ttl                 for how long the record is kept, in ms
--     attempt
--     result
-- Answers
--   {'gone'}
--   {'ok', ...}           for each item: applied | stale (it isn't lost, or has been submitted again since)
local uid, born, n = ARGV[1], ARGV[2], tonumber(ARGV[3])
if is_gone(uid) then return { 'gone' } end
local outcomes = { 'ok' }
local is_lost = redis.call('HGET', META, 'born') ~= born
for i = 1, n do
  local at, key = 6 * i - 2, FIXED + 2 * i - 1
  local id, agent, state, ttl, attempt = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local result = ARGV[at + 5]
  local task, agent_events = KEYS[key], KEYS[key + 1]
  local run_id = string.match(id, '^([^/]+)/')
  if not is_lost or redis.call('EXISTS', task) == 1 then
    outcomes[i + 1] = 'stale'
  else
    if not run_id then
      redis.call('HSET', task, 'state', state, 'agent', agent, 'result', result, 'finished', now, 'attempt', attempt,
        'recovered', '1')
      redis.call('PEXPIRE', task, ttl)
      redis.call('ZADD', IDS, now_ms + tonumber(ttl), id)
    end
    redis.call('XADD', RESULTS, '*', 'kind', run_id and 'step' or 'task', 'id', id, 'state', state,
      'result', #result <= ALONG and result or '', 'recovered', '1')
    item_event({ id = id, run_id = run_id, agent_events = agent_events },
      state == 'completed' and 'task_completed' or 'task_failed', agent, 'recovered: the store had lost it')
    outcomes[i + 1] = 'applied'
  end
end
return outcomes
