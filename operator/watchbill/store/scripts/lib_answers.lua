-- Messages to clients that wait: the ids of what has ended, joined by LS (packed.ids in Python). How it ended they
-- read from the store, since anybody may publish. A call sends one message to each channel.
-- uses nothing

local answers, channels = {}, {}
local function answer(listening, id)
  if not listening or listening == '' then return end
  for _, channel in ipairs(split(listening, LS)) do
    local texts = answers[channel]
    if not texts then
      texts = {}
      answers[channel] = texts
      channels[#channels + 1] = channel
    end
    texts[#texts + 1] = id
  end
end

local function send_answers()
  for _, channel in ipairs(channels) do redis.call('PUBLISH', channel, table.concat(answers[channel], LS)) end
end
