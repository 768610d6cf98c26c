-- How tasks and steps end, or are set aside until somebody resumes them.
-- uses events answers steps runs

local runs, indexed, enqueued, concluded = nil, {}, false, 0

-- The result of what was cancelled: there is no worker that could say. `spent`: by all attempts, as workers write it: input
-- tokens, output tokens and requests, by spaces; '': nothing.
local function cancelled_result(id, agent, attempt, why, spent)
  local input, output, requests = string.match(spent, '^(-?%d+) (-?%d+) (-?%d+)$')
  local usage = input and ',"usage":{"input_tokens":' .. input .. ',"output_tokens":' .. output .. ',"requests":' .. requests .. '}' or ''
  local error = why == '' and 'cancelled' or 'cancelled: ' .. why
  return '{"task_id":' .. quote(id) .. ',"agent_name":' .. quote(agent) .. ',"success":false,"error":' .. quote(error)
    .. ',"metadata":{"outcome":"cancelled"}' .. usage .. ',"attempt":' .. attempt .. ',"completed_at":"' .. stamp() .. '"}', error
end

-- A step, or a task (`reply`: who waits for it), has ended, under this fence. Its record may be gone.
local function conclude(k, id, run_id, name, step, is_there, reply, agent, attempt, fence, started, outcome, result, ttl, spent, message)
  if step then
    step.state, step.attempt, step.fence, step.started, step.finished, step.spent, step.entry = outcome, attempt, fence,
      started, now, spent, ''
    write_step(k.steps, name, step)
    redis.call('HSET', k.results, name, result)
  elseif is_there then
    redis.call('HSET', k.task, 'state', outcome, 'result', result, 'fence', fence, 'finished', now, 'attempt', attempt)
    if spent ~= '' then redis.call('HSET', k.task, 'spent', spent) end
    redis.call('PEXPIRE', k.task, ttl)
    local n = #indexed
    indexed[n + 1], indexed[n + 2] = now_ms + tonumber(ttl), id
    answer(reply, id)
  end
  redis.call('XADD', RESULTS, '*', 'kind', run_id and 'step' or 'task', 'id', id, 'state', outcome,
    'result', #result <= ALONG and result or '')
  concluded = concluded + 1
  event(outcome == 'completed' and 'task_completed' or outcome == 'cancelled' and 'task_cancelled' or 'task_failed',
    about(agent, id, run_id, message), k.agent_events, k.run_events)
  if step then
    runs = runs or runs_part()
    runs.advance(k, run_id, name, step, outcome, tonumber(ttl))
    enqueued = true
  end
end

-- Beside the streams until somebody resumes it. `attempt`: the last one that counts; `spent`: by all. `due`: not before then; 0: at once.
local function set_aside(k, id, run_id, name, step, agent, attempt, fence, why, due, spent)
  if step then
    step.state, step.attempt, step.fence, step.entry, step.spent = 'interrupted', attempt, fence, '', spent
    write_step(k.steps, name, step)
  else
    redis.call('HSET', k.task, 'state', 'interrupted', 'attempt', attempt, 'fence', fence, 'entry', '', 'spent', spent)
  end
  redis.call('ZADD', PARKED_INTERRUPT, due, id)
  event('agent_interrupted', about(agent, id, run_id, why), k.agent_events, k.run_events)
end

-- Ends every script that concludes.
local function index_ended()
  if #indexed > 0 then redis.call('ZADD', IDS, unpack(indexed)) end
  if concluded == 0 then return end
  -- What has expired leaves the index: of it more than comes, or it would grow for as long as there is much to do.
  local expired = redis.call('ZRANGEBYSCORE', IDS, '-inf', now_ms, 'LIMIT', 0, 100 + concluded)
  if #expired > 0 then redis.call('ZREM', IDS, unpack(expired)) end
end
