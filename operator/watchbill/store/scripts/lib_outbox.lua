-- What has ended and is to be delivered.
-- uses nothing

local OUTBOX_ALONG = 65536      -- bytes of a result that travel with its entry
local is_posted = false

-- Puts the end of a task or run into the outbox, from where it becomes deliveries. `deliver`: packed.pack_deliver in
-- Python, which begins with the outcomes that are wanted: s (success), f (failure); false: nothing is.
local function post(deliver, kind, id, state, result)
  if not deliver or not string.find(deliver, state == 'completed' and '^%l*s' or '^%l*f') then return end
  redis.call('XADD', OUTBOX, '*', 'kind', kind, 'id', id, 'state', state, 'deliver', deliver,
    'result', #result <= OUTBOX_ALONG and result or '')
  is_posted = true
  -- Whoever asks how much there is to do, asks for deliveries from now on, too. Workers that deliver nothing yet hear
  -- of it, once a second at most.
  local told = tonumber(redis.call('HGET', META, 'delivers') or '0')
  if now_ms - told >= 1000 or now_ms < told then
    redis.call('HSET', META, 'delivers', now)
    redis.call('PUBLISH', string.gsub(META, 'meta$', 'control'), 'deliver')
  end
end
