-- Requests to models that wait for a batch of their provider.
-- uses steps limits

-- A request (packed.Gathered in Python): its task or step, its agent, its reservation, its size, where it is in
-- the lane ('g:GROUP:WHEN' while it is gathered, 'b:BATCH' from then on).
local REQUEST = '^([^\31]*)\31([^\31]*)\31([^\31]*)\31(%d+)\31(.*)$'
-- The record of its task says of it (packed.Batched in Python): waiting | answered | left, the request, the turn,
-- the model, until when it waits, and once it was withdrawn, its reservation.
local OWN = '^(%a+)\31([^\31]*)\31(.*)$'

-- The record, and the field of it that says so.
local function batch_place(item)
  if item.run_id then return item.run, 'batch:' .. item.name end
  return item.task, 'batch'
end

-- Whether a task waits for this request still, and until when (ms).
local function awaits(item, request)
  local key, field = batch_place(item)
  local state, own, rest = string.match(redis.call('HGET', key, field) or '', OWN)
  if state ~= 'waiting' or own ~= request then return nil end
  if item.run_id then
    local step = read_step(item.steps, item.name)
    if not step or step.finished ~= '0' then return nil end
  elseif redis.call('HEXISTS', item.task, 'finished') == 1 then
    return nil
  end
  return string.match(rest, '(%d+)$')
end

-- Whether a worker has a task, which it may yet set aside. One that was handed back, or waits for the limits of its
-- agent, reads what is written for it when it begins.
local function has_begun(id)
  local inc = string.match(redis.call('HGET', HOLDERS, id) or '', '^[^\31]*')
  return inc ~= '' and inc ~= RETURNED and not is_limited(inc)
end

local function forget(lane, requests, request, place)
  redis.call('ZREM', lane, place .. ':' .. request)
  redis.call('HDEL', requests, request, request .. ':body')
end
