-- How tasks and steps end, or are set aside until somebody resumes them.
-- uses events answers outbox steps runs

local indexed, concluded, is_pumped = {}, 0, false

-- The result of what was cancelled, since no worker wrote one, and its error. `spent`: by all attempts, as workers
-- write it (input tokens, output tokens and requests, by spaces; '': nothing).
local function cancelled_result(item, h, why, spent)
  local input, output, requests = string.match(spent, '^(-?%d+) (-?%d+) (-?%d+)$')
  local usage = ''
  if input then
    usage = ',"usage":{"input_tokens":' .. input .. ',"output_tokens":' .. output .. ',"requests":' .. requests .. '}'
  end
  local waited = role_of(h.agent)      -- no agent of its role had it
  local role = waited or item.role and role_of(item.role)
  local error = why == '' and 'cancelled' or 'cancelled: ' .. why
  local result = '{"task_id":' .. quote(item.id) .. ',"agent_name":' .. quote(waited and '' or h.agent)
    .. (role and ',"role":' .. quote(role) or '') .. ',"success":false,"error":' .. quote(error)
    .. ',"cancelled":true' .. usage .. ',"attempt":' .. h.attempt
    .. ',"completed_at":"' .. stamp() .. '"}'
  return result, error
end

-- Ends a task or step; its record may be gone. `h`: agent, attempt and when that was started; `ended`: fence,
-- outcome, result, message, spent, and for how long the record is kept (ttl, in ms).
local function conclude(item, h, ended)
  local outcome, result, ttl, step = ended.outcome, ended.result, ended.ttl, item.step
  if step then
    step.state, step.attempt, step.fence, step.started, step.finished = outcome, h.attempt, ended.fence, h.started, now
    step.spent, step.entry = ended.spent, ''
    write_step(item.steps, item.name, step)
    if outcome ~= 'skipped' then redis.call('HSET', item.results, item.name, result) end
    if outcome == 'completed' and #result > ALONG then      -- what has failed may be replayed, and become small
      redis.call('HSET', item.run, 'large', 1)      -- so that no entry of its run carries any
    end
  elseif item.is_there then
    redis.call('HSET', item.task, 'state', outcome, 'result', result, 'fence', ended.fence, 'finished', now,
      'attempt', h.attempt)
    if ended.spent ~= '' then redis.call('HSET', item.task, 'spent', ended.spent) end
    redis.call('PEXPIRE', item.task, ttl)
    local n = #indexed
    indexed[n + 1], indexed[n + 2] = now_ms + tonumber(ttl), item.id
    answer(item.reply, item.id)
    post(item.deliver, 'task', item.id, outcome, result)
  end
  redis.call('XADD', RESULTS, '*', 'kind', item.run_id and 'step' or 'task', 'id', item.id, 'state', outcome,
    'result', #result <= ALONG and result or '')
  concluded = concluded + 1
  item_event(item, (outcome == 'completed' or outcome == 'skipped') and 'task_completed'
    or outcome == 'cancelled' and 'task_cancelled' or 'task_failed', h.agent, ended.message)
  if step then
    runs().advance(item, ended)
    is_pumped = true
  end
end

-- Sets a task or step aside, beside the streams, until somebody resumes it. `aside`: its agent, the last attempt that
-- counts, fence, why, what all attempts spent, and when it is due (in ms; 0: at once).
local function set_aside(item, aside)
  local step = item.step
  if step then
    step.state, step.attempt, step.fence = 'interrupted', aside.attempt, aside.fence
    step.entry, step.spent = '', aside.spent
    write_step(item.steps, item.name, step)
  else
    redis.call('HSET', item.task, 'state', 'interrupted', 'attempt', aside.attempt, 'fence', aside.fence, 'entry', '',
      'spent', aside.spent)
  end
  redis.call('ZADD', PARKED_INTERRUPT, aside.due, item.id)
  item_event(item, 'agent_interrupted', aside.agent, aside.why)
end

-- Every script that concludes ends with this. Returns how many have ended, and whether that may have put steps onto the
-- streams, for which nobody has been woken yet.
local function index_ended()
  if #indexed > 0 then redis.call('ZADD', IDS, unpack(indexed)) end
  if concluded == 0 then return 0, false end
  -- What has expired leaves the index: of it more than comes, or it would grow for as long as there is much to do.
  local expired = redis.call('ZRANGEBYSCORE', IDS, '-inf', now_ms, 'LIMIT', 0, 100 + concluded)
  if #expired > 0 then redis.call('ZREM', IDS, unpack(expired)) end
  return concluded, is_pumped
end
